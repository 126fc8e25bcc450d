use super::*;
use crate::flex::testing::tensor;

/// Segments with the given borders, of different rates and decays.
fn segments(borders: &[usize]) -> Vec<FlatSegment> {
    let segment = |(i, pair): (usize, &[usize])| FlatSegment {
        range: pair[0]..pair[1],
        lr_ratio: 1.0 + i as f64,
        adamw: AdamW {
            betas: [0.9, 0.99],
            epsilon: 1e-8,
            weight_decay: 0.05 * i as f32,
        },
        moments: None,
    };
    borders.windows(2).enumerate().map(segment).collect()
}

fn bits(x: &Tensor<1>) -> Vec<u32> {
    x.to_data().iter::<f32>().map(f32::to_bits).collect()
}

type Update = fn(Tensor<1>, &Tensor<1>, GradientScale, f64, &mut [FlatSegment], &mut [FlatAverage<'_>]) -> Tensor<1>;

/// Bits of everything after three steps of a vector cut at `borders`.
fn three_steps(update: Update, borders: &[usize]) -> Vec<Vec<u32>> {
    let len = borders[borders.len() - 1];
    let mut masters = tensor([len], 1);
    let mut segments = segments(borders);
    let mut averages = [masters.clone(), tensor([len], 2)];
    for step in 0..3 {
        let sum = tensor([len], 3 + step);
        // A gradient of exactly zero, of either sign.
        let zeros: Tensor<1> = Tensor::from_floats([0.0, -0.0], &sum.device());
        let others = (len > 2).then(|| sum.narrow(0, 2, len - 2));
        let sum = Tensor::cat(std::iter::once(zeros).chain(others).collect(), 0);
        let [slow, fast] = &mut averages;
        let mut averages = [(0.99, slow), (0.3, fast)].map(|(keep, weights)| FlatAverage { keep, weights });
        let scale = GradientScale {
            divisor: 12.0,
            factor: 0.37,
        };
        masters = update(masters, &sum, scale, 3e-3, &mut segments, &mut averages);
    }
    let moments = segments.iter().flat_map(|segment| &segment.moments);
    let moments: Vec<_> = moments
        .flat_map(|moments| [bits(&moments.first), bits(&moments.second)])
        .collect();
    assert!(
        segments
            .iter()
            .all(|segment| segment.moments.as_ref().is_some_and(|moments| moments.time == 3))
    );
    [vec![bits(&masters), bits(&averages[0]), bits(&averages[1])], moments].concat()
}

#[test]
fn three_steps_have_the_bits_of_burns_adamw_and_averages() {
    for borders in [
        vec![0, 5],
        vec![0, 3, 40, 97],
        vec![0, BLOCK + 3, 2 * CHUNK + 17],
        vec![0, 2, 2],
    ] {
        let [ours, right] = [flat_update, flat_update_reference].map(|update: Update| three_steps(update, &borders));
        assert!(ours == right, "{borders:?}");
    }
}

#[test]
fn a_vector_with_one_owner_stays_where_it_is() {
    let address = |x: &Tensor<1>| values(&into_flex(x.clone())).as_ptr();
    let (masters, mut average) = (tensor([100], 1), tensor([100], 2));
    let places = [&masters, &average].map(address);
    let weights = &mut average;
    let scale = GradientScale {
        divisor: 1.0,
        factor: 1.0,
    };
    let mut averages = [FlatAverage { keep: 0.5, weights }];
    let masters = flat_update(
        masters,
        &tensor([100], 3),
        scale,
        0.1,
        &mut segments(&[0, 100]),
        &mut averages,
    );
    assert_eq!(places, [&masters, &average].map(address));
}
