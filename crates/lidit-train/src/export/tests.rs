#![allow(clippy::unwrap_used)]
//! Exports against `tests/golden/reference`, which the `PyTorch` LI-DiT wrote.

use burn::tensor::{Tensor, TensorData};
use lidit_model::{LiDit, LossBatch, PromptBatch, Start};

use super::*;
use crate::carry_over::CarryOver;
use crate::config::Precision;
use crate::layout::FlatLayout;
use crate::optimizer::{host, upload};

/// The reference export `collaborative` (two language models, epsilon, DDIM) or `plain` (one, rectified flow, Euler).
pub(crate) fn reference(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/golden/reference")
        .join(name)
}

/// `example.safetensors` of a reference.
struct Golden {
    bytes: Vec<u8>,
}

impl Golden {
    fn open(name: &str) -> Self {
        Self {
            bytes: fs::read(reference(name).join(EXAMPLE_FILE)).unwrap(),
        }
    }

    fn values(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = tensors.tensor(name).unwrap();
        let values = match tensor.dtype() {
            Dtype::U8 => tensor.data().iter().map(|&byte| f32::from(byte)).collect(),
            _ => f32s(tensor.data()).collect(),
        };
        (tensor.shape().to_vec(), values)
    }

    fn tensor<const D: usize>(&self, name: &str, device: &Device) -> Tensor<D> {
        let (shape, values) = self.values(name);
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    fn prompt(&self, name: &str, device: &Device) -> PromptBatch {
        let mask = |kind: &str| self.tensor::<2>(&format!("in.{kind}.{name}"), device).greater_elem(0.5);
        PromptBatch {
            states: self.tensor(&format!("in.states.{name}"), device),
            valid: mask("valid"),
            caption: mask("caption"),
            cut: 1,
        }
    }

    fn example(&self, num_encoders: usize, device: &Device) -> Example {
        let draws = self.values("in.draws").1;
        Example {
            batch: LossBatch {
                images: self.tensor("in.images", device),
                noise: self.tensor("in.noise", device),
                draws: draws.as_chunks::<2>().0.to_vec(),
                weights: self.values("in.weights").1,
                image_tokens: 6,
            },
            prompts: (0..num_encoders).map(|i| self.prompt(&i.to_string(), device)).collect(),
        }
    }

    /// Compares rows of the last axis; `|a - b| / |b|` of each must stay below 1e-4.
    fn check<const D: usize>(&self, name: &str, actual: &Tensor<D>) {
        let (shape, expected) = self.values(name);
        assert_eq!(actual.dims().to_vec(), shape, "{name}");
        let actual: Vec<f32> = actual.to_data().iter::<f32>().collect();
        let width = shape[D - 1];
        for (i, (a, b)) in actual.chunks(width).zip(expected.chunks(width)).enumerate() {
            let error = relative(a, b);
            assert!(error < 1e-4, "row {i} of {name}: relative error {error:.1e}");
        }
    }
}

/// `|a - b| / |b|` in f64.
fn relative(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(a - b)));
    difference / norm(&mut b.iter().map(|&b| f64::from(b))).max(1e-30)
}

/// The reference's network with its weights, as an import loads them.
fn loaded(export: &Export, device: &Device) -> (LiDit, FlatLayout) {
    let network = export.config().network();
    let model = LiDit::zeros(&network.model, &network.conditioning, device);
    let layout = FlatLayout::of(&model);
    let carried = CarryOver {
        saved: &export.read().unwrap(),
        network: &network,
        layout: layout.entries(),
        fresh: &[],
    }
    .carry(vec![f32::NAN; layout.len()])
    .unwrap();
    assert_eq!(carried.carried, layout.entries().len());
    let weights = upload(&carried.weights, &device.clone().inner());
    (layout.load(&weights, Precision::F32, model), layout)
}

#[test]
fn imported_networks_repeat_pytorchs_training_step_and_pictures() {
    for name in ["collaborative", "velocity", "plain"] {
        let device = Device::flex().autodiff();
        let export = Export::open(&reference(name)).unwrap();
        let config = export.config();
        let (model, layout) = loaded(&export, &device);
        let golden = Golden::open(name);
        let example = golden.example(config.encoders.len(), &device);
        let answers = example.answers(&model, &layout, &config.objective);
        golden.check("out.x", &answers.x);
        golden.check("out.timesteps", &answers.timesteps);
        golden.check("out.prediction", &answers.prediction);
        golden.check("out.loss", &answers.loss);

        let gradients = host(&answers.gradients);
        for entry in layout.entries() {
            let (shape, stored) = golden.values(&format!("grad.{}", entry.name));
            let (shape, expected) = from_pytorch(&shape, stored);
            assert_eq!(shape, entry.shape, "{}", entry.name);
            let error = relative(&gradients[entry.range()], &expected);
            assert!(error < 1e-4, "gradient of {}: relative error {error:.1e}", entry.name);
        }

        let empty: Vec<PromptBatch> = (0..config.encoders.len())
            .map(|i| golden.prompt(&format!("empty.{i}"), &device.clone().inner()))
            .collect();
        let prompts = golden.example(config.encoders.len(), &device.clone().inner()).prompts;
        let noise = golden.tensor("in.noise", &device.clone().inner());
        let start = Start {
            noise,
            image_tokens: 6,
            fresh: &|_| panic!("neither DDIM nor Euler adds noise"),
        };
        let sampled = config
            .sampler
            .sample(&model, &config.objective, &start, &prompts, &empty, |_| {});
        golden.check("out.sampled", &sampled);
    }
}

#[test]
fn an_import_exported_again_is_the_same_file_and_config() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["collaborative", "velocity", "plain"] {
        let export = Export::open(&reference(name)).unwrap();
        let out = dir.path().join(name);
        for _ in 0..2 {
            // The second time over the first.
            Export::write(&out, export.config().clone(), &export.read().unwrap(), None).unwrap();
            let bytes = |dir: &Path| fs::read(dir.join(MODEL_FILE)).unwrap();
            assert!(bytes(&out) == bytes(&reference(name)), "{name}");
            assert_eq!(Export::open(&out).unwrap().config(), export.config());
            let permissions = |file: &str| fs::metadata(out.join(file)).unwrap().permissions();
            assert_eq!(permissions(MODEL_FILE), permissions(CONFIG_FILE));
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "something hidden is left");
        fs::remove_dir_all(&out).unwrap();
    }
}

#[test]
fn an_example_of_random_inputs_has_every_gradient_and_counts_the_right_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let export = Export::open(&reference("collaborative")).unwrap();
    let saved = export.read().unwrap();
    let example = Example::random(&saved.network, &Device::flex().autodiff());
    Export::write(dir.path(), export.config().clone(), &saved, Some(&example)).unwrap();
    let bytes = fs::read(dir.path().join(EXAMPLE_FILE)).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    for name in saved.names() {
        let (shape, _) = saved.get(name).unwrap();
        let gradient = tensors.tensor(&format!("grad.{name}")).unwrap();
        assert_eq!(gradient.data().len(), 4 * shape.iter().product::<usize>());
        assert!(f32s(gradient.data()).any(|x| x != 0.0), "{name}");
    }
    assert_eq!(tensors.tensor("out.prediction").unwrap().shape(), [3, 2, 8, 12]);
    let caption = tensors.tensor("in.caption.1").unwrap();
    assert_eq!(caption.data()[..14], [0, 0, 1, 1, 1, 1, 1, 0, 0, 1, 1, 0, 0, 0]);
}

/// What opening and reading a damaged copy of a reference says.
fn damaged(damage: impl Fn(&Path)) -> String {
    let dir = tempfile::tempdir().unwrap();
    for file in [CONFIG_FILE, MODEL_FILE] {
        fs::copy(reference("plain").join(file), dir.path().join(file)).unwrap();
    }
    damage(dir.path());
    let error = Export::open(dir.path()).and_then(|export| export.read()).unwrap_err();
    format!("{error:#}")
}

fn edit(dir: &Path, from: &str, to: &str) {
    let path = dir.join(CONFIG_FILE);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from}");
    fs::write(path, text.replace(from, to)).unwrap();
}

/// Writes another weights' file with a digest that fits.
fn with_weights(dir: &Path, bytes: &[u8]) {
    let old = hash_file(&dir.join(MODEL_FILE)).unwrap().1;
    fs::write(dir.join(MODEL_FILE), bytes).unwrap();
    edit(dir, &old, &hash_file(&dir.join(MODEL_FILE)).unwrap().1);
}

#[test]
fn damage_is_named() {
    let cut = |dir: &Path| {
        let bytes = fs::read(dir.join(MODEL_FILE)).unwrap();
        fs::write(dir.join(MODEL_FILE), &bytes[..bytes.len() - 100]).unwrap();
    };
    let message = damaged(cut);
    assert!(message.contains(MODEL_FILE) && message.contains("digest"), "{message}");
    let cut_and_signed = |dir: &Path| {
        let bytes = fs::read(dir.join(MODEL_FILE)).unwrap();
        with_weights(dir, &bytes[..bytes.len() - 100]);
    };
    let message = damaged(cut_and_signed);
    assert!(message.contains("parsing") && message.contains(MODEL_FILE), "{message}");
    let half = |dir: &Path| {
        let view = safetensors::tensor::TensorView::new(Dtype::BF16, vec![1], &[0, 0]).unwrap();
        with_weights(dir, &safetensors::serialize([("a.weight", view)], None).unwrap());
    };
    let message = damaged(half);
    assert!(message.contains("`a.weight` is BF16"), "{message}");
    let message = damaged(|dir| edit(dir, "\"format_version\": 1", "\"format_version\": 9"));
    assert!(message.contains("format_version is 9"), "{message}");
    let message = damaged(|dir| edit(dir, "\"pytorch\"", "\"burn\""));
    assert!(message.contains("`burn`"), "{message}");
    let message = damaged(|dir| edit(dir, "\"vae\"", "\"vea\""));
    assert!(message.contains("vea"), "{message}");
    let message = damaged(|dir| fs::remove_file(dir.join(CONFIG_FILE)).unwrap());
    assert!(message.contains(CONFIG_FILE), "{message}");
}

#[test]
fn a_folder_of_other_things_is_never_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let export = Export::open(&reference("plain")).unwrap();
    let saved = export.read().unwrap();
    for (name, text) in [("notes.txt", "mine"), (CONFIG_FILE, "{\"a\": \"model\"}")] {
        let out = dir.path().join("out");
        fs::create_dir(&out).unwrap();
        fs::write(out.join(name), text).unwrap();
        let error = Export::write(&out, export.config().clone(), &saved, None).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
        assert_eq!(fs::read_to_string(out.join(name)).unwrap(), text);
        fs::remove_dir_all(&out).unwrap();
    }
}
