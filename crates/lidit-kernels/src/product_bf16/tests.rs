use burn::tensor::bf16;

use super::*;
use crate::flex::testing::numbers;

fn rounded(x: &[f32]) -> Vec<bf16> {
    x.iter().map(|&x| bf16::from_f32(x)).collect()
}

/// A matrix of `rows` by `columns` in memory whose rows, or else columns, lie together.
fn matrix<T: Number>(values: &[T], [rows, columns]: [usize; 2], is_turned: bool) -> Matrix<'_, T> {
    if is_turned {
        Matrix::new(values, rows).transposed()
    } else {
        Matrix::new(values, columns)
    }
}

fn run<A: Number, B: Number>(a: &Matrix<'_, A>, b: &Matrix<'_, B>, bias: Option<&[f32]>) -> Vec<f32> {
    let len = a.rows() * b.columns();
    let mut out = Vec::with_capacity(len);
    product_bf16(a, b, bias, Output::F32(&mut out.spare_capacity_mut()[..len]));
    // SAFETY: a product writes every element.
    unsafe { out.set_len(len) };
    let mut short = Vec::with_capacity(len);
    product_bf16(a, b, bias, Output::Bf16(&mut short.spare_capacity_mut()[..len]));
    // SAFETY: as above.
    unsafe { short.set_len(len) };
    assert_eq!(short, rounded(&out), "rounded once, at the end");
    out
}

/// Every way in which the matrices of `[m, k] x [k, n]` may lie, against sums in f64.
fn check([m, k, n]: [usize; 3]) {
    let (a, b, bias) = (numbers(m * k, 1), numbers(k * n, 2), numbers(n, 3));
    let (short_a, short_b) = (rounded(&a), rounded(&b));
    for (turned_a, turned_b) in [(false, false), (false, true), (true, false), (true, true)] {
        let (long, short) = (matrix(&a, [m, k], turned_a), matrix(&short_a, [m, k], turned_a));
        let (other_long, other) = (matrix(&b, [k, n], turned_b), matrix(&short_b, [k, n], turned_b));
        let got = run(&short, &other, Some(&bias));
        for (i, got) in got.iter().enumerate() {
            let products = (0..k).map(|j| f64::from(short.at(i / n, j)) * f64::from(other.at(j, i % n)));
            let (sum, size) = products.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()));
            let off = (f64::from(*got) - sum - f64::from(bias[i % n])).abs();
            assert!(
                off <= 1e-5 * (1.0 + size),
                "[{m}, {k}, {n}], element {i}: {got} and {sum}"
            );
        }
        assert_eq!(run(&long, &other, Some(&bias)), got, "the left one is rounded");
        assert_eq!(run(&long, &other_long, Some(&bias)), got, "the right one is rounded");
    }
}

#[test]
fn every_shape_and_layout_equals_sums_in_f64() {
    let shapes = [
        [1, 1, 1],
        [7, 3, 5],
        [8, 2, 48],
        [13, 64, 49],
        [33, 401, 97],
        [130, 800, 65],
        [17, 1000, 16],
        [300, 385, 384],
    ];
    for shape in shapes {
        check(shape);
    }
}

#[test]
fn an_empty_product_is_its_bias() {
    let bias = numbers(5, 1);
    let nothing: [bf16; 0] = [];
    let (a, b) = (Matrix::with_size(&nothing, [3, 0]), Matrix::with_size(&nothing, [0, 5]));
    assert_eq!(run(&a, &b, Some(&bias)), bias.repeat(3));
    let none = Matrix::with_size(&nothing, [0, 0]);
    assert!(run(&b.transposed(), &none, None).is_empty());
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let (a, b) = (rounded(&numbers(301 * 900, 1)), rounded(&numbers(900 * 70, 2)));
    let (a, b) = (Matrix::new(&a, 900), Matrix::new(&b, 70));
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run(&a, &b, None))
    };
    let one = with(1);
    assert_eq!(with(3), one);
    assert_eq!(with(2), one);
}

#[test]
fn a_packed_matrix_serves_many_products() {
    let (a, b) = (rounded(&numbers(20 * 77, 1)), rounded(&numbers(77 * 50, 2)));
    let packed = PackedMatrix::new(&Matrix::new(&b, 50));
    for rows in [20, 3] {
        let a = Matrix::new(&a[..rows * 77], 77);
        let mut out = Vec::with_capacity(rows * 50);
        packed.multiply(&a, None, Output::F32(&mut out.spare_capacity_mut()[..rows * 50]));
        // SAFETY: a product writes every element.
        unsafe { out.set_len(rows * 50) };
        assert_eq!(out, run(&a, &Matrix::new(&b, 50), None));
    }
}
