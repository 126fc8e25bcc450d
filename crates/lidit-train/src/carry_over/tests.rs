#![allow(clippy::unwrap_used)]

use burn::tensor::Device;
use lidit_model::{Fusion, InputNorm, LiDit, Pooling, RefinerAttention, RefinerGate};

use super::*;
use crate::export::Export;
use crate::export::tests::reference;
use crate::layout::FlatLayout;

fn saved() -> SavedWeights {
    Export::open(&reference("collaborative")).unwrap().read().unwrap()
}

/// Carries the reference's weights over to `network`, whose own are all 7.
fn carry(network: &NetworkSpec, fresh: &[&str]) -> Result<(Carried, FlatLayout)> {
    carry_from(&saved(), network, fresh)
}

fn carry_from(saved: &SavedWeights, network: &NetworkSpec, fresh: &[&str]) -> Result<(Carried, FlatLayout)> {
    let layout = FlatLayout::of(&LiDit::zeros(&network.model, &network.conditioning, &Device::flex()));
    let fresh: Vec<String> = fresh.iter().map(ToString::to_string).collect();
    let carried = CarryOver {
        saved,
        network,
        layout: layout.entries(),
        fresh: &fresh,
    }
    .carry(vec![7.0; layout.len()])?;
    Ok((carried, layout))
}

fn refused(network: &NetworkSpec, fresh: &[&str]) -> String {
    format!("{:#}", carry(network, fresh).unwrap_err())
}

/// The reference's own network after `change`.
fn network(change: impl Fn(&mut NetworkSpec)) -> NetworkSpec {
    let mut network = saved().network;
    change(&mut network);
    network
}

#[test]
fn every_way_to_be_another_network_is_named_with_both_values_and_the_file() {
    type Change = fn(&mut NetworkSpec);
    let other = Export::open(&reference("plain")).unwrap().config().objective.clone();
    let mistakes: [(Change, &str); 16] = [
        (|n| n.model.hidden_size = 16, "model.hidden_size is 8 there and 16 here"),
        (|n| n.model.depth = 3, "model.depth is 2 there and 3 here"),
        (|n| n.model.depth = 1, "model.depth is 2 there and 1 here"),
        (|n| n.model.num_heads = 1, "model.num_heads is 2 there and 1 here"),
        (|n| n.model.mlp_ratio = 2, "model.mlp_ratio is 4 there and 2 here"),
        (|n| n.model.patch_size = 1, "model.patch_size is 2 there and 1 here"),
        (|n| n.model.in_channels = 4, "model.in_channels is 2 there and 4 here"),
        (
            |n| n.model.fusion = Fusion::Concatenate,
            r#"model.fusion is "collaborative" there and "concatenate" here"#,
        ),
        (
            |n| n.model.refiner.blocks = 1,
            "model.refiner.blocks is 2 there and 1 here",
        ),
        (
            |n| n.model.refiner.attention = RefinerAttention::Causal,
            r#"model.refiner.attention is "full" there and "causal" here"#,
        ),
        (
            |n| n.model.refiner.gate = RefinerGate::None,
            r#"model.refiner.gate is "adaptive" there and "none" here"#,
        ),
        (
            |n| n.conditioning.input_norm = InputNorm::None,
            r#"encoders.input_norm is "rms_clipped" there and "none" here"#,
        ),
        (
            |n| n.conditioning.pooling = Pooling::All,
            r#"encoders.pooling is "caption" there and "all" here"#,
        ),
        (
            |n| {
                n.encoders[1].fingerprint = "f00d".to_owned();
                n.encoders[1].template.instruction = "Name it:".to_owned();
            },
            r#"there and f00d here (template.instruction is "Describe the image:" there and "Name it:" here)"#,
        ),
        (
            |n| {
                let third = n.encoders[1].clone();
                n.encoders.push(third);
                n.conditioning.context_dims.push(7);
            },
            "encoders.llm has 2 entries there and 3 here",
        ),
        (
            |n| n.vae = "beef".to_owned(),
            r#"vae is "identity" there and "beef" here"#,
        ),
    ];
    for (change, expected) in mistakes {
        let message = refused(&network(change), &[]);
        assert!(message.contains(expected), "{message}");
        assert!(message.contains("reference/collaborative/config.json"), "{message}");
    }
    let message = refused(&network(|n| n.objective = other.clone()), &[]);
    assert!(
        message.contains(r#"objective.kind is "epsilon" there and "rectified_flow" here"#),
        "{message}"
    );
}

#[test]
fn the_same_network_takes_everything_and_names_of_models_do_not_count() {
    let (carried, layout) = carry(
        &network(|n| n.encoders[0].llm.model = "/elsewhere/x.gguf".to_owned()),
        &[],
    )
    .unwrap();
    assert_eq!(carried.carried, layout.entries().len());
    assert_eq!(carried.fresh, Vec::<String>::new());
    let saved = saved();
    for entry in layout.entries() {
        assert_eq!(
            carried.weights[entry.range()],
            *saved.parameter(entry).unwrap(),
            "{}",
            entry.name
        );
    }
}

#[test]
fn what_is_named_fresh_may_differ_and_nothing_else() {
    let other = Export::open(&reference("plain")).unwrap().config().objective.clone();
    let deeper = network(|n| n.model.depth = 3);
    let (carried, layout) = carry(&deeper, &["blocks.2"]).unwrap();
    assert!(!carried.fresh.is_empty());
    for entry in layout.entries() {
        let kept = carried.weights[entry.range()]
            .iter()
            .all(|&x| x.to_bits() == 7f32.to_bits());
        assert_eq!(kept, entry.name.starts_with("blocks.2."), "{}", entry.name);
        assert_eq!(kept, carried.fresh.contains(&entry.name), "{}", entry.name);
    }
    // Not all that is new: one sublayer of the new block, another block, a block whose number only begins alike.
    for fresh in ["blocks.2.mlp", "blocks.1", "blocks.0"] {
        assert!(refused(&deeper, &[fresh]).contains("model.depth"), "{fresh}");
    }
    for (network, fresh) in [
        (network(|n| n.model.depth = 1), "blocks.1"),
        (network(|n| n.model.fusion = Fusion::Concatenate), "collaborative"),
        (network(|n| n.encoders[1].fingerprint = "f00d".to_owned()), "encoders.1"),
        (network(|n| n.objective = other.clone()), "final_layer"),
    ] {
        carry(&network, &[fresh]).unwrap();
    }
    let pixels = network(|n| n.vae = "beef".to_owned());
    assert!(refused(&pixels, &["patchify"]).contains("vae"));
    carry(&pixels, &["patchify", "final_layer"]).unwrap();
    let message = refused(
        &network(|n| n.encoders[1].fingerprint = "f00d".to_owned()),
        &["encoders.1.refiner"],
    );
    assert!(
        message.contains("encoders.llm.1") && message.contains("encoders.1.p"),
        "{message}"
    );
}

#[test]
fn a_path_that_names_nothing_is_refused() {
    for path in ["finallayer", "blocks.12", "blocks.", "block", ""] {
        let message = refused(&saved().network, &[path]);
        assert!(
            message.contains(&format!("fresh: `{path}` names no parameter")),
            "{message}"
        );
    }
}

#[test]
fn missing_surplus_and_misshapen_parameters_are_named_with_their_file() {
    let whole = saved();
    let tensors = |change: fn(&str, &mut Vec<usize>) -> bool| {
        let kept = whole.names().filter_map(|name| {
            let (shape, values) = whole.get(name)?;
            let mut shape = shape.to_vec();
            change(name, &mut shape).then(|| Ok((name.to_owned(), shape, values.to_vec())))
        });
        SavedWeights::new(whole.file.clone(), whole.config.clone(), whole.network.clone(), kept).unwrap()
    };
    let message =
        |saved: &SavedWeights, network: &NetworkSpec| format!("{:#}", carry_from(saved, network, &[]).unwrap_err());
    let without = tensors(|name, _| name != "patchify.linear.bias");
    let said = message(&without, &whole.network);
    assert!(
        said.contains("model.safetensors lacks `patchify.linear.bias`"),
        "{said}"
    );
    carry_from(&without, &whole.network, &["patchify"]).unwrap();

    let turned = tensors(|name, shape| {
        if name == "blocks.0.mlp.linear_in.weight" {
            shape.reverse();
        }
        true
    });
    let said = message(&turned, &whole.network);
    assert!(
        said.contains("`blocks.0.mlp.linear_in.weight` is [32, 8] there and [8, 32] here"),
        "{said}"
    );

    let surplus = whole
        .names()
        .filter_map(|name| Some((name.to_owned(), whole.get(name)?)));
    let surplus = surplus.map(|(name, (shape, values))| Ok((name, shape.to_vec(), values.to_vec())));
    let surplus = surplus.chain([Ok(("register.tokens".to_owned(), vec![1], vec![0.0]))]);
    let surplus = SavedWeights::new(whole.file.clone(), whole.config.clone(), whole.network.clone(), surplus).unwrap();
    let said = message(&surplus, &whole.network);
    assert!(
        said.contains("holds `register.tokens`, which this network has not"),
        "{said}"
    );
    carry_from(&surplus, &whole.network, &["register"]).unwrap();
}
