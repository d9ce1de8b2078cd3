//! The two inner loops that the CPU kernels are made of, in vector registers: [`Accumulate`], a small product whose
//! result rows are contiguous, and [`Dots`], one whose operands' rows are. Both are for the thin matrices that general
//! matrix multiplication is slow on: ranks of a few slots, heads of a few dozen features, sequences of a few tokens.
#![allow(unsafe_code)]

use pulp::{Simd, WithSimd};

/// Runs `op` with the widest vector instructions this processor has.
pub(crate) fn run<Op: WithSimd>(op: Op) -> Op::Output {
    #[cfg(target_arch = "x86_64")]
    {
        // Asked for one by one: the backend's own copy of this library is built without its AVX2 dispatch.
        if let Some(simd) = pulp::x86::V4::try_new() {
            return Simd::vectorize(simd, op);
        }
        if let Some(simd) = pulp::x86::V3::try_new() {
            return Simd::vectorize(simd, op);
        }
    }
    pulp::Arch::new().dispatch(op)
}

/// Runs a loop with the compiler's own vectorisation for this processor.
pub(crate) fn vectorised<F: FnOnce()>(f: F) {
    struct Plain<F>(F);
    impl<F: FnOnce()> WithSimd for Plain<F> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) {
            (self.0)();
        }
    }
    run(Plain(f));
}

/// `out[i][j] (+)= scale · Σ_d coef[i][d] · m[d][j]` for `rows × width` results.
pub(crate) struct Accumulate<'a> {
    pub out: &'a mut [f32],
    pub out_stride: usize,
    pub coef: &'a [f32],
    /// Distance between `coef[i][d]` and `coef[i + 1][d]`, and between `coef[i][d]` and `coef[i][d + 1]`.
    pub coef_strides: [usize; 2],
    pub m: &'a [f32],
    pub m_stride: usize,
    pub rows: usize,
    pub depth: usize,
    pub width: usize,
    pub scale: f32,
    /// Overwrite `out` instead of adding to it.
    pub fresh: bool,
}

/// `out[i][s] = scale · Σ_j x[i][j] · m[s][j]` for `rows × slots` results.
pub(crate) struct Dots<'a> {
    pub out: &'a mut [f32],
    pub out_stride: usize,
    pub x: &'a [f32],
    pub x_stride: usize,
    pub m: &'a [f32],
    pub m_stride: usize,
    pub rows: usize,
    pub slots: usize,
    pub width: usize,
    pub scale: f32,
}

/// Elements a strided matrix reaches over.
fn reach(rows: usize, stride: usize, width: usize) -> usize {
    if rows == 0 || width == 0 { 0 } else { (rows - 1) * stride + width }
}

#[inline(always)]
unsafe fn load<S: Simd>(at: *const f32) -> S::f32s {
    // SAFETY: the caller keeps `at` and the lanes after it inside a slice; vectors have no invalid bit patterns.
    unsafe { at.cast::<S::f32s>().read_unaligned() }
}

impl Accumulate<'_> {
    fn check(&self) {
        let [row, deep] = self.coef_strides;
        let last = if self.rows * self.depth == 0 { 0 } else { (self.rows - 1) * row + (self.depth - 1) * deep + 1 };
        assert!(last <= self.coef.len(), "coefficients in reach");
        assert!(reach(self.rows, self.out_stride, self.width) <= self.out.len(), "results in reach");
        assert!(reach(self.depth, self.m_stride, self.width) <= self.m.len(), "matrix in reach");
    }

    /// `R` rows times `V` vectors from `(row, col)` on.
    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize, const V: usize>(&mut self, simd: S, row: usize, col: usize) {
        let [coef_row, coef_deep] = self.coef_strides;
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        // SAFETY: `check` holds, and the tile lies inside rows × width.
        unsafe {
            for d in 0..self.depth {
                let m = self.m.as_ptr().add(d * self.m_stride + col);
                let coef = self.coef.as_ptr().add(row * coef_row + d * coef_deep);
                let mut vectors = [simd.splat_f32s(0.0); V];
                for (v, vector) in vectors.iter_mut().enumerate() {
                    *vector = load::<S>(m.add(v * S::F32_LANES));
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let c = simd.splat_f32s(*coef.add(r * coef_row));
                    for v in 0..V {
                        sums[v] = simd.mul_add_e_f32s(c, vectors[v], sums[v]);
                    }
                }
            }
            let scale = simd.splat_f32s(self.scale);
            for (r, sums) in sums.iter().enumerate() {
                let out = self.out.as_mut_ptr().add((row + r) * self.out_stride + col);
                for (v, &sum) in sums.iter().enumerate() {
                    let at = out.add(v * S::F32_LANES);
                    let old = if self.fresh { simd.splat_f32s(0.0) } else { load::<S>(at) };
                    at.cast::<S::f32s>().write_unaligned(simd.mul_add_e_f32s(sum, scale, old));
                }
            }
        }
    }

    /// The columns from `col` on that fill no vector.
    #[inline(always)]
    fn tail<S: Simd, const R: usize>(&mut self, simd: S, row: usize, col: usize) {
        let [coef_row, coef_deep] = self.coef_strides;
        let mut sums = [simd.splat_f32s(0.0); R];
        for d in 0..self.depth {
            let m = simd.partial_load_f32s(&self.m[d * self.m_stride + col..d * self.m_stride + self.width]);
            for (r, sum) in sums.iter_mut().enumerate() {
                let c = simd.splat_f32s(self.coef[(row + r) * coef_row + d * coef_deep]);
                *sum = simd.mul_add_e_f32s(c, m, *sum);
            }
        }
        let scale = simd.splat_f32s(self.scale);
        for (r, &sum) in sums.iter().enumerate() {
            let start = (row + r) * self.out_stride;
            let out = &mut self.out[start + col..start + self.width];
            let old = if self.fresh { simd.splat_f32s(0.0) } else { simd.partial_load_f32s(out) };
            simd.partial_store_f32s(out, simd.mul_add_e_f32s(sum, scale, old));
        }
    }

    #[inline(always)]
    fn rows<S: Simd, const R: usize>(&mut self, simd: S, mut row: usize) -> usize {
        while row + R <= self.rows {
            let mut col = 0;
            // SAFETY: the tiles stay inside rows × width by the loop conditions.
            unsafe {
                while col + 2 * S::F32_LANES <= self.width {
                    self.tile::<S, R, 2>(simd, row, col);
                    col += 2 * S::F32_LANES;
                }
                if col + S::F32_LANES <= self.width {
                    self.tile::<S, R, 1>(simd, row, col);
                    col += S::F32_LANES;
                }
            }
            if col < self.width {
                self.tail::<S, R>(simd, row, col);
            }
            row += R;
        }
        row
    }
}

impl WithSimd for Accumulate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        self.check();
        // Eight rows of two vectors need 32 registers, which AVX-512 has.
        let row = if S::F32_LANES >= 16 { self.rows::<S, 8>(simd, 0) } else { 0 };
        let row = self.rows::<S, 4>(simd, row);
        let row = self.rows::<S, 2>(simd, row);
        self.rows::<S, 1>(simd, row);
    }
}

/// `sums[r][g] += xs[r] · ms[g]`, lane by lane.
#[inline(always)]
fn add_products<S: Simd, const R: usize, const G: usize>(
    simd: S,
    sums: &mut [[S::f32s; G]; R],
    xs: &[S::f32s; R],
    ms: &[S::f32s; G],
) {
    for (sums, &x) in sums.iter_mut().zip(xs) {
        for (sum, &m) in sums.iter_mut().zip(ms) {
            *sum = simd.mul_add_e_f32s(x, m, *sum);
        }
    }
}

impl Dots<'_> {
    fn check(&self) {
        assert!(reach(self.rows, self.out_stride, self.slots) <= self.out.len(), "results in reach");
        assert!(reach(self.rows, self.x_stride, self.width) <= self.x.len(), "rows in reach");
        assert!(reach(self.slots, self.m_stride, self.width) <= self.m.len(), "slots in reach");
    }

    /// `R` rows against `G` slots from `(row, slot)` on.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const G: usize>(&mut self, simd: S, row: usize, slot: usize) {
        let lanes = S::F32_LANES;
        let whole = self.width / lanes * lanes;
        let mut sums = [[simd.splat_f32s(0.0); G]; R];
        let mut at = 0;
        while at < whole {
            let mut xs = [simd.splat_f32s(0.0); R];
            // SAFETY: `check` holds; a whole vector fits from `at` on in every row.
            unsafe {
                for (r, x) in xs.iter_mut().enumerate() {
                    *x = load::<S>(self.x.as_ptr().add((row + r) * self.x_stride + at));
                }
                let mut ms = [simd.splat_f32s(0.0); G];
                for (g, m) in ms.iter_mut().enumerate() {
                    *m = load::<S>(self.m.as_ptr().add((slot + g) * self.m_stride + at));
                }
                add_products(simd, &mut sums, &xs, &ms);
            }
            at += lanes;
        }
        if whole < self.width {
            let rest = |from: &[f32], start: usize| simd.partial_load_f32s(&from[start + whole..start + self.width]);
            let xs = std::array::from_fn(|r| rest(self.x, (row + r) * self.x_stride));
            let ms = std::array::from_fn(|g| rest(self.m, (slot + g) * self.m_stride));
            add_products(simd, &mut sums, &xs, &ms);
        }
        for (r, sums) in sums.iter().enumerate() {
            for (g, &sum) in sums.iter().enumerate() {
                self.out[(row + r) * self.out_stride + slot + g] = self.scale * simd.reduce_sum_f32s(sum);
            }
        }
    }

    #[inline(always)]
    fn slots<S: Simd, const G: usize>(&mut self, simd: S, mut slot: usize) -> usize {
        while slot + G <= self.slots {
            let mut row = 0;
            while row + 2 <= self.rows {
                self.tile::<S, 2, G>(simd, row, slot);
                row += 2;
            }
            if row < self.rows {
                self.tile::<S, 1, G>(simd, row, slot);
            }
            slot += G;
        }
        slot
    }
}

impl WithSimd for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        self.check();
        let slot = self.slots::<S, 8>(simd, 0);
        let slot = self.slots::<S, 4>(simd, slot);
        let slot = self.slots::<S, 2>(simd, slot);
        self.slots::<S, 1>(simd, slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37 + 11) % 101) as f32 / 50.0 - 1.0).collect()
    }

    #[test]
    fn small_products_are_right_at_every_size() {
        for (rows, depth, width) in [(1, 1, 1), (3, 2, 5), (9, 7, 33), (16, 8, 48), (13, 20, 71), (2, 0, 4)] {
            let (stride, m) = (width + 3, numbers(depth * (width + 2)));
            for transposed in [false, true] {
                let coef = numbers(rows * depth);
                let coef_strides = if transposed { [1, rows] } else { [depth, 1] };
                for fresh in [false, true] {
                    let before = numbers(rows * stride);
                    let mut out = before.clone();
                    let op = Accumulate {
                        out: &mut out,
                        out_stride: stride,
                        coef: &coef,
                        coef_strides,
                        m: &m,
                        m_stride: width + 2,
                        rows,
                        depth,
                        width,
                        scale: 0.5,
                        fresh,
                    };
                    run(op);
                    for (at, &value) in out.iter().enumerate() {
                        let (i, j) = (at / stride, at % stride);
                        let sum: f32 = (0..depth)
                            .filter(|_| j < width)
                            .map(|d| coef[i * coef_strides[0] + d * coef_strides[1]] * m[d * (width + 2) + j])
                            .sum();
                        let old = if fresh && j < width { 0.0 } else { before[at] };
                        assert!((value - old - 0.5 * sum).abs() < 1e-4, "{rows}x{depth}x{width} at {i},{j}");
                    }
                }
            }
        }
    }

    #[test]
    fn dot_products_are_right_at_every_size() {
        for (rows, slots, width) in [(1, 1, 1), (3, 2, 5), (5, 15, 33), (4, 8, 64), (2, 0, 4)] {
            let (x, m) = (numbers(rows * (width + 1)), numbers(slots * width));
            let mut out = vec![7.0; rows * (slots + 1)];
            run(Dots {
                out: &mut out,
                out_stride: slots + 1,
                x: &x,
                x_stride: width + 1,
                m: &m,
                m_stride: width,
                rows,
                slots,
                width,
                scale: 2.0,
            });
            for (at, &value) in out.iter().enumerate() {
                let (i, s) = (at / (slots + 1), at % (slots + 1));
                let sum: f32 =
                    (0..width).filter(|_| s < slots).map(|j| x[i * (width + 1) + j] * m[s * width + j]).sum();
                let expected = if s < slots { 2.0 * sum } else { 7.0 };
                assert!((value - expected).abs() < 1e-4, "{rows}x{slots}x{width} at {i},{s}");
            }
        }
    }
}
