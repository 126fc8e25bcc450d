//! Small systems of linear equations.

/// Solves `matrix * x = right` by elimination with row pivots; none when the matrix is singular to rounding.
pub fn solve<const P: usize>(mut matrix: [[f64; P]; P], mut right: [f64; P]) -> Option<[f64; P]> {
    for column in 0..P {
        let pivot = (column..P).max_by(|a, b| matrix[*a][column].abs().total_cmp(&matrix[*b][column].abs()))?;
        if matrix[pivot][column].abs() < 1e-300 || !matrix[pivot][column].is_finite() {
            return None;
        }
        matrix.swap(column, pivot);
        right.swap(column, pivot);
        let (top, below) = matrix.split_at_mut(column + 1);
        let (pivot_row, pivot_right) = (&top[column], right[column]);
        for (row, value) in below.iter_mut().zip(&mut right[column + 1..]) {
            let factor = row[column] / pivot_row[column];
            for (entry, above) in row.iter_mut().zip(pivot_row).skip(column) {
                *entry -= factor * above;
            }
            *value -= factor * pivot_right;
        }
    }
    let mut x = [0.0; P];
    for row in (0..P).rev() {
        let known: f64 = (row + 1..P).map(|column| matrix[row][column] * x[column]).sum();
        x[row] = (right[row] - known) / matrix[row][row];
    }
    x.iter().all(|value| value.is_finite()).then_some(x)
}

/// The coefficients that make `sum (rows * x - targets)^2` least.
pub fn least_squares<const P: usize>(rows: &[[f64; P]], targets: &[f64]) -> Option<[f64; P]> {
    if rows.len() < P {
        return None;
    }
    let mut matrix = [[0.0; P]; P];
    let mut right = [0.0; P];
    for (row, target) in rows.iter().zip(targets) {
        for i in 0..P {
            right[i] += row[i] * target;
            for j in 0..P {
                matrix[i][j] += row[i] * row[j];
            }
        }
    }
    solve(matrix, right)
}

/// The smallest and largest eigenvalue of a symmetric matrix, by Jacobi rotations.
pub fn eigenvalue_range<const P: usize>(mut matrix: [[f64; P]; P]) -> (f64, f64) {
    for _ in 0..30 {
        for p in 0..P {
            for q in p + 1..P {
                if matrix[p][q].abs() < 1e-300 {
                    continue;
                }
                let angle = 0.5 * (2.0 * matrix[p][q]).atan2(matrix[q][q] - matrix[p][p]);
                let (sine, cosine) = angle.sin_cos();
                for row in &mut matrix {
                    (row[p], row[q]) = (cosine * row[p] - sine * row[q], sine * row[p] + cosine * row[q]);
                }
                let (above, below) = matrix.split_at_mut(q);
                for (upper, lower) in above[p].iter_mut().zip(&mut below[0]) {
                    (*upper, *lower) = (cosine * *upper - sine * *lower, sine * *upper + cosine * *lower);
                }
            }
        }
    }
    (0..P).fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), i| {
        (low.min(matrix[i][i]), high.max(matrix[i][i]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn solves_what_needs_a_pivot() {
        let x = solve([[0.0, 2.0, 1.0], [1.0, 1.0, 0.0], [3.0, 0.0, 1.0]], [7.0, 3.0, 6.0]).unwrap();
        for (value, expected) in x.iter().zip([1.0, 2.0, 3.0]) {
            assert!((value - expected).abs() < 1e-12);
        }
        assert_eq!(solve([[1.0, 2.0], [2.0, 4.0]], [1.0, 2.0]), None);
    }

    #[test]
    fn eigenvalues_of_a_known_matrix() {
        let (low, high) = eigenvalue_range([[2.0, -1.0, 0.0], [-1.0, 2.0, -1.0], [0.0, -1.0, 2.0]]);
        assert!((low - (2.0 - 2f64.sqrt())).abs() < 1e-9 && (high - (2.0 + 2f64.sqrt())).abs() < 1e-9);
    }
}
