//! A fast Fourier transform (Cooley and Tukey, radix 2), as much of one as composing losses needs.

use std::f64::consts::TAU;

/// A complex number.
type Complex = [f64; 2];

fn product([a, b]: Complex, [c, d]: Complex) -> Complex {
    [a * c - b * d, a * d + b * c]
}

/// `line` convolved with itself around the circle, `times` of it in all; its length is a power of two.
pub(super) fn power_of_circle(line: Vec<f64>, times: usize) -> Vec<f64> {
    let mut values: Vec<Complex> = line.into_iter().map(|re| [re, 0.0]).collect();
    transform(&mut values, -1.0);
    values.iter_mut().for_each(|c| *c = power(*c, times));
    transform(&mut values, 1.0);
    let n = values.len() as f64;
    values.into_iter().map(|[re, _]| re / n).collect()
}

fn power(mut base: Complex, mut times: usize) -> Complex {
    let mut result = [1.0, 0.0];
    while times > 0 {
        if times & 1 == 1 {
            result = product(result, base);
        }
        base = product(base, base);
        times >>= 1;
    }
    result
}

/// `Σ_n x_n·e^(sign·2πi·kn/N)` in place.
fn transform(x: &mut [Complex], sign: f64) {
    let n = x.len();
    assert!(n.is_power_of_two(), "a power of two");
    let bits = n.trailing_zeros();
    for i in 0..n {
        let j = if bits == 0 { 0 } else { i.reverse_bits() >> (usize::BITS - bits) };
        if i < j {
            x.swap(i, j);
        }
    }
    // All roots from their angles, so that their errors do not add up.
    let roots: Vec<Complex> = (0..n / 2)
        .map(|k| {
            let (sin, cos) = (sign * TAU * k as f64 / n as f64).sin_cos();
            [cos, sin]
        })
        .collect();
    let mut half = 1;
    while half < n {
        let stride = n / (2 * half);
        for block in x.chunks_exact_mut(2 * half) {
            let (first, second) = block.split_at_mut(half);
            for (k, (a, b)) in first.iter_mut().zip(second).enumerate() {
                let turned = product(*b, roots[k * stride]);
                (*a, *b) = ([a[0] + turned[0], a[1] + turned[1]], [a[0] - turned[0], a[1] - turned[1]]);
            }
        }
        half *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_the_circle_are_convolutions() {
        let line = [0.5, 0.2, 0.0, 0.1, 0.0, 0.0, 0.0, 0.2];
        let mut direct = vec![0.0; 8];
        direct[0] = 1.0;
        for times in 0..6 {
            let found = power_of_circle(line.to_vec(), times);
            assert!(
                found.iter().zip(&direct).all(|(f, d): (&f64, &f64)| (f - d).abs() < 1e-15),
                "{found:?} {direct:?}"
            );
            let mut next = vec![0.0; 8];
            for (i, d) in direct.iter().enumerate() {
                for (j, l) in line.iter().enumerate() {
                    next[(i + j) % 8] += d * l;
                }
            }
            direct = next;
        }
    }
}
