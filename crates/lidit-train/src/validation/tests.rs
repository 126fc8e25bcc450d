#![allow(clippy::unwrap_used)]
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use lidit_data::{Dataset, SampleRng, Stream};
use lidit_dist::World;
use lidit_model::LiDit;

use super::*;
use crate::conditioner::Conditioner;
use crate::latents::LatentSpace;
use crate::layout::FlatLayout;
use crate::optimizer::upload;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The debug run, judged on one of its shards.
fn config(sets: &[&str]) -> Result<RunConfig> {
    let shard = repository().join("datasets/fixtures/emoji/shard-00002.parquet");
    let mut all = vec![format!("validation.data={}", shard.display())];
    let own = [
        "samples=4",
        "levels=3",
        "seed=5",
        "every=0",
        "weights=raw",
        "prompt_gain=true",
    ];
    all.extend(own.map(|set| format!("validation.{set}")));
    all.extend(sets.iter().map(|set| (*set).to_owned()));
    RunConfig::load(&repository().join("configs/run/debug.toml"), &all)
}

/// A network with random weights everywhere, so that it predicts something.
fn network(config: &RunConfig, conditioner: &Conditioner, device: &Device) -> LiDit {
    let model = LiDit::zeros(&config.model, &conditioner.conditioning(&config.encoders), device);
    let layout = FlatLayout::of(&model);
    let mut weights = vec![0.0; layout.len()];
    SampleRng::new(1, 0, 0, Stream::Generation).fill_normal(&mut weights);
    for weight in &mut weights {
        *weight *= 0.1;
    }
    layout.load(&upload(&weights, device), config.train.precision, model)
}

fn mean_square(a: &Tensor<4>, b: &Tensor<4>) -> f64 {
    let [a, b] = [a, b].map(|tensor| tensor.to_data().iter::<f32>().collect::<Vec<_>>());
    let squares = a.iter().zip(&b).map(|(a, b)| f64::from(a - b) * f64::from(a - b));
    squares.sum::<f64>() / a.len() as f64
}

#[test]
fn every_loss_is_the_error_of_its_own_sample_time_and_noise() {
    let (config, device) = (config(&[]).unwrap(), Device::flex());
    let set = config.validation.as_ref().unwrap().set();
    let latents = LatentSpace::open(&config.vae, &config.model, &device).unwrap();
    let locate = |model: &str| Ok(PathBuf::from(model));
    let conditioner = Conditioner::load(&config.encoders, &device, &locate).unwrap();
    let model = network(&config, &conditioner, &device);
    let mut held_out = HeldOut::open(&set, &config, &latents, &device, &locate, &World::solo()).unwrap();
    let mut evaluate = |micro_batch| {
        let judged = Judged {
            model: &model,
            conditioner: &conditioner,
            device: &device,
            micro_batch,
        };
        held_out.evaluate(&judged, &World::solo()).unwrap().of(7, "raw".into())
    };
    let record = evaluate(5);
    assert_eq!((record.step, record.ids.len(), record.levels.len()), (7, 4, 3));

    let dataset = Dataset::open(&set.in_place_of_data(&config).data).unwrap();
    let mut sum = 0.0;
    let gains = &record.prompt_gain.as_ref().unwrap().gains;
    for ((&id, losses), gains) in record.ids.iter().zip(&record.losses).zip(gains) {
        let sample = dataset.sample(id).unwrap();
        let mut pixels = vec![0.0; 3 * 16 * 16];
        sample.write_chw(&mut pixels);
        let tensor = |values: Vec<f32>| Tensor::<4>::from_data(TensorData::new(values, [1, 3, 16, 16]), &device);
        let image = tensor(pixels);
        let caption = sample.captions.all().next().unwrap();
        let prompts = conditioner.condition(&[caption.as_str()]).unwrap().batches;
        let empty = conditioner.condition(&[""]).unwrap().batches;
        for (level, (&loss, &gain)) in losses.iter().zip(gains).enumerate() {
            let mut noise = vec![0.0; 3 * 16 * 16];
            SampleRng::new(5, level as u64, id, Stream::Validation).fill_normal(&mut noise);
            let (noise, t) = (tensor(noise), (level as f32 + 0.5) / 3.0);
            let noisy = image.clone() * (1.0 - t) + noise.clone() * t;
            let times = Tensor::from_floats([1000.0 * t], &device);
            let target = noise - image.clone();
            let expected = mean_square(&model.forward(noisy.clone(), times.clone(), &prompts), &target);
            let without = mean_square(&model.forward(noisy, times, &empty), &target);
            let gained = f64::from(gain) - (without - expected);
            assert!(
                gained.abs() <= 2e-5 * expected && gain != 0.0,
                "{id} at {t}: {gain} is {gained} off"
            );
            let loss = f64::from(loss);
            assert!(
                (loss - expected).abs() <= 1e-5 * expected,
                "{id} at {t}: {loss} and {expected}"
            );
            sum += expected;
        }
    }
    assert!((record.val_loss - sum / 12.0).abs() <= 1e-5 * record.val_loss);
    assert!(record.se > 0.0 && record.levels.iter().all(|level| level.se > 0.0));

    assert_eq!(evaluate(5), record, "the same again");
    for other in [1, 4, 100].map(&mut evaluate) {
        for (a, b) in other.losses.iter().flatten().zip(record.losses.iter().flatten()) {
            assert!((a - b).abs() <= 1e-5 * b, "{a} and {b}");
        }
    }
}

#[test]
fn triples_are_the_same_for_every_network_and_others_for_another_set() {
    let digest = |sets: &[&str]| {
        let (config, device) = (config(sets).unwrap(), Device::flex());
        let latents = LatentSpace::open(&config.vae, &config.model, &device).unwrap();
        let set = config.validation.as_ref().unwrap().set();
        let dataset = Dataset::open(&set.in_place_of_data(&config).data).unwrap();
        let identity = ValidationIdentity::of(&set, &dataset, &config.objective, &latents).unwrap();
        identity.digest().unwrap()
    };
    let first = digest(&[]);
    for same in [
        "model.depth=3",
        "train.seed=9",
        "train.precision=bf16",
        "validation.every=3",
        "validation.weights=ema",
        "objective.density={ logit_normal = { mean = 0.0, std = 1.0 } }",
        "objective.shift={ constant = { factor = 3.0 } }",
        "data.max_samples=8",
        "encoders.prefix=none",
    ] {
        assert_eq!(digest(&[same]), first, "{same}");
    }
    for other in [
        "validation.seed=6",
        "validation.samples=3",
        "validation.levels=4",
        "data.image_size=8",
        "data.buckets=false",
    ] {
        assert_ne!(digest(&[other]), first, "{other}");
    }
}

#[test]
fn what_can_not_be_evaluated_is_refused_by_its_key() {
    let error = |set: &str| format!("{:#}", config(&[set]).unwrap_err());
    for (set, named) in [
        ("validation.samples=1", "validation.samples is 1"),
        ("validation.levels=0", "validation.levels is 0"),
        ("validation.weights=ema:7", "train.ema_half_lives is [48, 120]"),
        ("validation.weights=best", "validation.weights"),
        ("validation.evry=3", "evry"),
        ("encoders.features=/features", "validation.features is missing"),
    ] {
        let message = error(set);
        assert!(message.contains(named), "{set}: {message}");
    }
    assert!(config(&["validation.weights=ema:48"]).is_ok());
    let validation = config(&["validation.every=4"]).unwrap().validation.unwrap();
    let due: Vec<u64> = (1..=10).filter(|&step| validation.is_due(step, 10)).collect();
    assert_eq!(due, [4, 8, 10]);
    let last_only = config(&[]).unwrap().validation.unwrap();
    assert!((1..=10).all(|step| last_only.is_due(step, 10) == (step == 10)));
}
