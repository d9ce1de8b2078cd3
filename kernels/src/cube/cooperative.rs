//! [`down`](super::lowrank::down) on cooperative matrices (matrix units, tensor cores): operands in 16 bits, sums in f32. For devices
//! that have such matrices; the kernels of `lowrank.rs` stay for all others and for f32, and are what this one is held to.
//!
//! Beyond what `cube.rs` promises WebGPU: more shared memory, and matrices that a plane (a warp) holds together.
#![allow(unsafe_code)] // launches without bounds checks: the kernels check for themselves

use std::sync::OnceLock;

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::features::MmaConfig;
use burn_cubecl::cubecl::ir::{ElemType, FloatKind};
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::tensor::CubeTensor;

use super::factors::{Factors, Window, load_factors_as};
use super::product::{Side, UNITS, load_as, zeros};
use super::share::{across, share};
use super::tensors::{elem, groups};
use super::tiles::TileTable;

/// Elements between rows of a slice in shared memory beyond its depth: rows begin at multiples of 16 bytes, as matrix units ask,
/// and eight of them on different banks.
const PAD: usize = 8;

/// Depth in shared memory at a time.
const DEPTH: usize = 128;

/// Slots of a tile at most.
const MOST_COLS: usize = 64;

/// How a workgroup's planes share out a tile: each has a strip of rows and a part of the depth, and all the tile's slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Units {
    /// A matrix that a plane holds: rows, columns, depth.
    pub(crate) matrix: [usize; 3],
    /// Rows of the tile.
    pub(crate) rows: usize,
    /// Slots of the tile.
    pub(crate) cols: usize,
    /// Depth in shared memory at a time.
    pub(crate) depth: usize,
    /// Units of a plane.
    pub(crate) plane: usize,
    /// Products by every unit on its own, out of the same shared memory: for tests on devices without such matrices.
    pub(crate) by_hand: bool,
}

/// Whether the user says `BONFIRE_MATRIX_UNITS=0`: where they compute wrongly, and to measure what they are worth.
fn turned_off() -> bool {
    static OFF: OnceLock<bool> = OnceLock::new();
    *OFF.get_or_init(|| std::env::var_os("BONFIRE_MATRIX_UNITS").is_some_and(|value| value == "0"))
}

impl Units {
    /// What the device of `x` computes tiles of so many rows with, where so many slots read the same columns; `None` where it has no
    /// matrices for them.
    pub(super) fn of(x: &CubeTensor, rows: usize, slots: usize) -> Option<Self> {
        if turned_off() {
            return None;
        }
        let properties = x.client.properties();
        let hardware = &properties.hardware;
        let (planes, room) = ([hardware.plane_size_min, hardware.plane_size_max], hardware.max_shared_memory_size);
        let units = Self::among(properties.features.matmul.cmma.iter(), elem(x), planes, rows, slots);
        units.filter(|units| units.bytes(x.dtype.size()) <= room)
    }

    /// The same for the device's `matrices`, the type of `x` and the smallest and largest plane.
    pub(crate) fn among<'m>(
        matrices: impl Iterator<Item = &'m MmaConfig>,
        operand: ElemType,
        [plane, largest]: [u32; 2],
        rows: usize,
        slots: usize,
    ) -> Option<Self> {
        let f32 = ElemType::Float(FloatKind::F32);
        // Where planes have no one size, a workgroup cannot be laid out by them.
        if operand == f32 || plane == 0 || plane != largest || !(UNITS as usize).is_multiple_of(plane as usize) {
            return None;
        }
        let fits = |m: &MmaConfig| {
            let matrix = [m.m, m.n, m.k].map(|side| side as usize);
            let cols = slots.clamp(1, MOST_COLS).next_multiple_of(matrix[1]);
            let units = Units { matrix, rows, cols, depth: DEPTH, plane: plane as usize, by_hand: false };
            (m.a_type == operand && m.b_type == operand && m.cd_type == f32 && units.fits()).then_some(units)
        };
        // Of those that waste fewest slots the squarest.
        matrices
            .filter_map(fits)
            .min_by_key(|units| (units.cols, units.matrix[0].abs_diff(units.matrix[1]), units.matrix))
    }

    /// Whether every plane has the same to do.
    pub(crate) const fn fits(&self) -> bool {
        let [m, n, k] = self.matrix;
        let (planes, strips) = (UNITS as usize / self.plane, self.rows / m);
        self.rows.is_multiple_of(m)
            && self.cols.is_multiple_of(n)
            && self.cols <= MOST_COLS
            && planes.is_multiple_of(strips)
            && self.depth.is_multiple_of(k * (planes / strips))
            && (self.rows * self.cols).is_multiple_of(UNITS as usize)
            && (m * n).is_multiple_of(self.plane)
    }

    /// Shared memory of a workgroup, for operands of so many bytes.
    pub(crate) const fn bytes(&self, operand: usize) -> usize {
        let sums = self.parts() * self.rows * self.cols;
        operand * (self.rows + self.cols) * self.step() + size_of::<f32>() * (sums + 1)
    }

    const fn strips(&self) -> usize {
        self.rows / self.matrix[0]
    }

    /// Parts of the depth.
    const fn parts(&self) -> usize {
        UNITS as usize / self.plane / self.strips()
    }

    /// Matrices side by side.
    const fn across(&self) -> usize {
        self.cols / self.matrix[1]
    }

    /// Numbers of a matrix that a unit sums where it does so by hand.
    const fn each(&self) -> usize {
        self.matrix[0] * self.matrix[1] / self.plane
    }

    /// From a row in shared memory to the next.
    const fn step(&self) -> usize {
        self.depth + PAD
    }
}

/// See [`down`](super::lowrank::down): into `h`, which is there.
pub(crate) fn down(x: CubeTensor, h: CubeTensor, factors: &Factors, tiles: &TileTable, units: Units) -> CubeTensor {
    assert!(units.fits() && units.rows == tiles.rows, "a tile that planes can share");
    let types = [elem(&x), elem(&h)];
    // SAFETY: the kernel reads and writes inside the shapes that the caller has checked.
    unsafe {
        down_cooperative_kernel::launch_unchecked(
            &h.client,
            groups(tiles.count * across(factors, units.cols)),
            CubeDim::new_2d(units.plane as u32, UNITS / units.plane as u32),
            x.into_tensor_arg(),
            factors.tensor_args(),
            factors.column_args(),
            tiles.tiles.clone().into_buffer_arg(),
            factors.rank_table(tiles).into_buffer_arg(),
            h.clone().into_tensor_arg(),
            tiles.count,
            tiles.segments.len(),
            factors.limited(),
            !factors.overlap(),
            units,
            types,
        );
    }
    h
}

#[cube(launch_unchecked)]
fn down_cooperative_kernel<E: Float, W: Float>(
    x: &Tensor<E>,
    factors: &Sequence<OwnedTensor<W>>,
    columns: &Sequence<usize>,
    tiles: &[u32],
    ranks: &[u32],
    h: &mut Tensor<W>,
    count: usize,
    clients: usize,
    #[comptime] limited: bool,
    #[comptime] apart: bool,
    #[comptime] units: Units,
    #[define(E, W)] _types: [ElemType; 2],
) {
    let its = share::<W>(tiles, factors, columns, ranks, h.shape(1), count, clients, units.cols, apart, limited);
    if its.first >= h.shape(1) {
        terminate!();
    }
    let here = its.here;
    // Rows and slots lie along the depth, as they do in memory: nothing is turned on the way in.
    let mut left = Shared::<[E]>::new_aligned_slice(comptime!(units.rows * units.step()), 32usize);
    let mut right = Shared::<[E]>::new_aligned_slice(comptime!(units.cols * units.step()), 32usize);
    let mut sums = Shared::<[f32]>::new_aligned_slice(comptime!(units.parts() * units.rows * units.cols), 32usize);
    // A plane is a row of units.
    let plane = UNIT_POS_Y as usize;
    let strip = plane % comptime!(units.strips());
    let share = plane / comptime!(units.strips());
    // A plane's strip of the result, part of it by part of the depth: of cooperative matrices, or of each unit's own numbers.
    let mut matrices = Sequence::<cmma::Matrix<f32>>::new();
    let mut own = zeros(comptime!(if units.by_hand { units.across() * units.each() } else { 1 }));
    if comptime!(!units.by_hand) {
        #[unroll]
        for _ in 0..comptime!(units.across()) {
            matrices.push(cmma::Matrix::<f32>::from_value(
                cmma::MatrixIdent::Accumulator,
                comptime!(units.matrix[0]),
                comptime!(units.matrix[1]),
                comptime!(units.matrix[2]),
                cmma::MatrixLayout::Undefined,
                0f32,
            ));
        }
    }
    let rows = Side { base: here.first * x.stride(0), count: here.rows, step: x.stride(0), depth_step: x.stride(1) };
    for at in range_stepped(its.column, its.column_end, units.depth) {
        let window = Window { slot: its.first, slot_end: its.end, column: at, column_end: its.column_end };
        load_as::<E, E>(&mut left, x, rows, at, its.column_end, units.rows, units.depth, comptime!(units.step()));
        load_factors_as::<W, E>(
            &mut right,
            factors,
            &its.parts,
            window,
            units.cols,
            units.depth,
            comptime!(units.step()),
        );
        sync_cube();
        if comptime!(units.by_hand) {
            add_by_hand::<E>(&mut own, &left, &right, strip, share, units);
        } else {
            add::<E>(&matrices, &left, &right, strip, share, units);
        }
        sync_cube();
    }
    // Matrices are whole; which of their rows and slots there are is looked up on the way out.
    let corner = (share * units.rows + strip * comptime!(units.matrix[0])) * units.cols;
    #[unroll]
    for j in 0..comptime!(units.across()) {
        let to = corner + comptime!(j * units.matrix[1]);
        if comptime!(units.by_hand) {
            #[unroll]
            for e in 0..comptime!(units.each()) {
                let at = UNIT_POS_X as usize + comptime!(e * units.plane);
                let (row, col) = (at / comptime!(units.matrix[1]), at % comptime!(units.matrix[1]));
                sums[to + row * units.cols + col] = own[comptime!(j * units.each() + e)];
            }
        } else {
            cmma::store(
                &mut sums[to..to + comptime!((units.matrix[0] - 1) * units.cols + units.matrix[1])],
                &matrices[j],
                comptime!(units.cols as u32),
                cmma::MatrixLayout::RowMajor,
            );
        }
    }
    sync_cube();
    #[unroll]
    for step in 0..comptime!(units.rows * units.cols / UNITS as usize) {
        let at = UNIT_POS as usize + comptime!(step * UNITS as usize);
        let row = at / units.cols;
        let slot = its.first + at % units.cols;
        if row < here.rows && slot < its.end {
            let mut sum = sums[at];
            #[unroll]
            for other in 1..comptime!(units.parts()) {
                sum += sums[at + comptime!(other * units.rows * units.cols)];
            }
            let to = (here.first + row) * h.stride(0) + slot * h.stride(1);
            h[to] = W::cast_from(sum);
        }
    }
}

/// Adds a plane's part of a slice to its matrices.
#[cube]
fn add<E: Float>(
    sums: &Sequence<cmma::Matrix<f32>>,
    left: &Shared<[E]>,
    right: &Shared<[E]>,
    strip: usize,
    share: usize,
    #[comptime] units: Units,
) {
    let (m, n, k) = comptime!((units.matrix[0], units.matrix[1], units.matrix[2]));
    // SAFETY: both are loaded before they are read.
    let mut a =
        unsafe { cmma::Matrix::<E>::uninitialized(cmma::MatrixIdent::A, m, n, k, cmma::MatrixLayout::RowMajor) };
    let mut b =
        unsafe { cmma::Matrix::<E>::uninitialized(cmma::MatrixIdent::B, m, n, k, cmma::MatrixLayout::ColMajor) };
    #[unroll]
    for step in 0..comptime!(units.depth / k / units.parts()) {
        let deep = (share + comptime!(step * units.parts())) * k;
        let from = strip * comptime!(m * units.step()) + deep;
        cmma::load(&mut a, &left[from..from + comptime!((m - 1) * units.step() + k)], comptime!(units.step() as u32));
        #[unroll]
        for j in 0..comptime!(units.across()) {
            let from = deep + comptime!(j * n * units.step());
            cmma::load(
                &mut b,
                &right[from..from + comptime!((n - 1) * units.step() + k)],
                comptime!(units.step() as u32),
            );
            let sum = &sums[j];
            cmma::execute(&a, &b, sum, sum);
        }
    }
}

/// The same, number by number: each unit of a plane has every so-manyth number of every matrix.
#[cube]
fn add_by_hand<E: Float>(
    sums: &mut Array<f32>,
    left: &Shared<[E]>,
    right: &Shared<[E]>,
    strip: usize,
    share: usize,
    #[comptime] units: Units,
) {
    let (m, n, k) = comptime!((units.matrix[0], units.matrix[1], units.matrix[2]));
    #[unroll]
    for j in 0..comptime!(units.across()) {
        #[unroll]
        for e in 0..comptime!(units.each()) {
            let at = UNIT_POS_X as usize + comptime!(e * units.plane);
            let of_left = (strip * m + at / n) * comptime!(units.step());
            let of_right = (at % n + comptime!(j * n)) * comptime!(units.step());
            let mut sum = sums[comptime!(j * units.each() + e)];
            for step in 0..comptime!(units.depth / k / units.parts()) {
                let deep = (share + step * comptime!(units.parts())) * k;
                for i in 0..k {
                    sum += f32::cast_from(left[of_left + deep + i]) * f32::cast_from(right[of_right + deep + i]);
                }
            }
            sums[comptime!(j * units.each() + e)] = sum;
        }
    }
}
