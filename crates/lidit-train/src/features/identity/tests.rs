#![allow(clippy::unwrap_used)]
use super::*;

fn identity() -> FeatureIdentity {
    let encoder = |name: &str| EncoderIdentity {
        llm: LlmConfig {
            model: format!("/models/{name}.gguf"),
            layer: Some(-3),
            layers: None,
        },
        precision: Precision::F32,
        template: TemplateConfig::bare(),
        dim: 32,
        fingerprint: name.to_owned(),
    };
    FeatureIdentity {
        format_version: FORMAT_VERSION,
        data: DataIdentity {
            digest: "d".into(),
            rows: 24,
            captions: vec![CaptionColumns {
                original: "caption".into(),
                synthetic: None,
            }],
            max_samples: None,
            subset_seed: 0,
        },
        cache: CacheConfig {
            precision: Precision::F32,
            rows_per_file: 4,
        },
        encoders: vec![encoder("a"), encoder("b")],
        latents: None,
    }
}

fn refusal(change: impl Fn(&mut FeatureIdentity)) -> String {
    let mut wanted = identity();
    change(&mut wanted);
    identity()
        .check(&wanted, Path::new("/features"))
        .unwrap_err()
        .to_string()
}

#[test]
fn every_difference_is_named_with_both_sides() {
    identity().check(&identity(), Path::new("/features")).unwrap();
    let message = refusal(|wanted| {
        wanted.encoders[1].llm.layer = Some(-2);
        wanted.encoders[1].fingerprint = "c".into();
    });
    assert!(message.contains("/features"), "{message}");
    assert!(
        message.contains("encoders.1.llm.layer is -3 there and -2 here"),
        "{message}"
    );
    assert!(
        message.contains(r#"encoders.1.fingerprint is "b" there and "c" here"#),
        "{message}"
    );
    let message = refusal(|wanted| wanted.data.max_samples = Some(3));
    assert!(
        message.contains("data.max_samples is null there and 3 here"),
        "{message}"
    );
    let message = refusal(|wanted| drop(wanted.encoders.pop()));
    assert!(message.contains("encoders has 2 entries there and 1 here"), "{message}");
}

#[test]
fn the_same_encoder_by_another_path_and_another_count_of_layers_is_the_same() {
    let mut wanted = identity();
    wanted.encoders[0].llm = LlmConfig {
        model: "elsewhere".into(),
        layer: Some(28),
        layers: None,
    };
    identity().check(&wanted, Path::new("/features")).unwrap();
    assert_eq!(identity().fingerprint().unwrap(), wanted.fingerprint().unwrap());
}

#[test]
fn the_fingerprint_follows_encoders_captions_and_the_stored_type_alone() {
    let fingerprint = |change: fn(&mut FeatureIdentity)| {
        let mut other = identity();
        change(&mut other);
        other.fingerprint().unwrap()
    };
    let same = fingerprint(|_| {});
    assert_eq!(same, fingerprint(|other| other.cache.rows_per_file = 9));
    assert_ne!(same, fingerprint(|other| other.cache.precision = Precision::Bf16));
    assert_ne!(same, fingerprint(|other| other.encoders.reverse()));
    assert_ne!(same, fingerprint(|other| other.data.digest.push('x')));
}
