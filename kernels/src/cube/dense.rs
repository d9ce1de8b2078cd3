//! Products of whole matrices. CubeK's kernels for matrix units turn f32 operands into TF32 wherever the device has it, and
//! both Burn's tuner and CubeK's own choice take them; so products that are to be f32 are tuned here, among the kernels
//! that need no matrix unit and multiply what they are given. All others are Burn's.
//!
//! A kernel in TF32 shows it: its id names the type (`TF32`), and its PTX has `tf32` in `mma`, `wmma` and `cvt`. In a run in
//! f32 no kernel has.

use burn::backend::ops::FloatTensorOps;
use burn::backend::{DType, Shape, TensorMetadata};
use burn_cubecl::cubecl::ir::{ElemType, FloatKind};
use burn_cubecl::cubecl::tune::{LocalTuner, Tunable, TunableSet, TuneGroup};
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeTuneId};
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems, MatmulKind};
use cubek::matmul::multi_level::Strategy;
use cubek::matmul::multi_level::routines::TileSizeSelection;
use cubek::matmul::multi_level::routines::batch::double_unit::DoubleUnitSelectionArgs;
use cubek::matmul::multi_level::routines::batch::simple_unit::SimpleUnitSelectionArgs;
use cubek::matmul::routine::BlueprintStrategy;
use cubek::matmul::tune_key::{MatmulAutotuneKey, should_tune_double_buffering};
use cubek::std::InputBinding;

use super::tensors::{elem, empty};
use crate::options::Arithmetic;

/// Both sides and room for the result.
type Operands = (CubeTensor, CubeTensor, CubeTensor);

/// What is tried on which shapes, by CubeK's names.
type Candidates = TunableSet<MatmulAutotuneKey, Operands, (), String>;

static TUNER: LocalTuner<MatmulAutotuneKey, CubeTuneId> = LocalTuner::new("bonfire::product");

/// `[.., M, K] x [.., K, N] -> [.., M, N]`; leading axes are equal, or 1 on one side.
///
/// # Panics
/// When shapes or types do not fit.
pub(crate) fn product(lhs: CubeTensor, rhs: CubeTensor, arithmetic: Arithmetic, tuned: bool) -> CubeTensor {
    assert_eq!(lhs.dtype, rhs.dtype, "both sides of a product are of one type");
    let shape = result(&lhs.shape(), &rhs.shape());
    if lhs.shape().num_elements() == 0 || rhs.shape().num_elements() == 0 {
        return CubeBackend::float_zeros(shape, &lhs.device, lhs.dtype.into());
    }
    if (lhs.dtype, arithmetic) != (DType::F32, Arithmetic::F32) {
        return CubeBackend::float_matmul(lhs, rhs);
    }
    let out = empty(&lhs, shape, DType::F32);
    if tuned {
        let (id, client) = (CubeTuneId::new(&lhs.client, &lhs.device), lhs.client.clone());
        TUNER.execute(&id, &client, TUNER.init(&id, candidates), (lhs, rhs, out.clone()));
    } else {
        launch(&tiles(TileSizeSelection::MaxTileSize), lhs, rhs, out.clone()).expect("this kernel takes all shapes");
    }
    out
}

/// The shape of a product.
pub(super) fn result(lhs: &Shape, rhs: &Shape) -> Shape {
    let axes = lhs.num_dims();
    assert!(axes >= 2 && axes == rhs.num_dims() && lhs[axes - 1] == rhs[axes - 2], "{lhs:?} x {rhs:?}");
    let size = |axis: usize| match axes - axis {
        1 => rhs[axis],
        2 => lhs[axis],
        _ if lhs[axis] == 1 => rhs[axis],
        _ => {
            assert!(rhs[axis] == 1 || rhs[axis] == lhs[axis], "{lhs:?} x {rhs:?}");
            lhs[axis]
        }
    };
    Shape::from((0..axes).map(size).collect::<Vec<_>>())
}

/// Whether matrix units of this device take TF32.
pub(crate) fn has_tf32(on: &CubeTensor) -> bool {
    on.client.properties().supports_type(ElemType::Float(FloatKind::TF32))
}

/// What computes the product of two such matrices.
pub(crate) fn product_kernel(lhs: CubeTensor, rhs: CubeTensor, arithmetic: Arithmetic) -> String {
    if (lhs.dtype, arithmetic) != (DType::F32, Arithmetic::F32) {
        // Burn's tuner keeps to itself which kernel it took.
        return "CubeK, tuned by CubeCL".into();
    }
    let id = CubeTuneId::new(&lhs.client, &lhs.device);
    let chosen = TUNER.fastest_identity(&id, &TUNER.init(&id, candidates), &key(&lhs, &rhs));
    chosen.unwrap_or_else(|| "not tuned yet".into())
}

/// A kernel of CubeK's without matrix units, one tile of the result a unit, the tiles small or large.
fn tiles(tile_size: TileSizeSelection) -> Strategy {
    Strategy::SimpleUnit(BlueprintStrategy::Inferred(SimpleUnitSelectionArgs { tile_size }))
}

/// The same, loading one part of the operands while multiplying another.
fn double_buffered(tile_size: TileSizeSelection) -> Strategy {
    Strategy::DoubleUnit(BlueprintStrategy::Inferred(DoubleUnitSelectionArgs { tile_size }))
}

/// Which shapes a kernel is tried on.
type Shapes = fn(&MatmulAutotuneKey) -> bool;

/// What may compute a product in f32, and on which shapes: nothing that asks for a matrix unit, which would take TF32.
pub(super) fn strategies() -> Vec<(Strategy, Shapes)> {
    use TileSizeSelection::{MaxTileSize, MinTileSize};
    let all: Shapes = |_| true;
    let large: Shapes = |key| should_tune_double_buffering(false, key);
    let vectors: Shapes = |key| matches!(key.analysis.kind, MatmulKind::MatVec | MatmulKind::VecMat);
    vec![
        (tiles(MaxTileSize), all),
        (tiles(MinTileSize), all),
        (double_buffered(MaxTileSize), large),
        (double_buffered(MinTileSize), large),
        (Strategy::Gemm(Default::default()), vectors),
        (Strategy::GemvUnitPerpendicular(Default::default()), vectors),
    ]
}

fn candidates() -> Candidates {
    // The highest level that has a kernel which runs is tried; below zero is left out.
    const LEFT_OUT: i8 = -1;
    const IN_NEED: i8 = 0;
    const TRIED: i8 = 1;
    let group = TuneGroup::new("f32", |_| 0);
    let candidate = |strategy: Strategy| {
        Tunable::identified(strategy.to_string(), move |(lhs, rhs, out)| launch(&strategy, lhs, rhs, out))
    };
    let set = TunableSet::new_cloning_inputs(|(lhs, rhs, _): &Operands| key(lhs, rhs));
    let set = set.with(candidate(Strategy::Naive).group(&group, |_| IN_NEED));
    strategies().into_iter().fold(set, |set, (strategy, shapes)| {
        set.with(candidate(strategy).group(&group, move |key| if shapes(key) { TRIED } else { LEFT_OUT }))
    })
}

pub(super) fn key(lhs: &CubeTensor, rhs: &CubeTensor) -> MatmulAutotuneKey {
    let (l, r) = (&lhs.meta, &rhs.meta);
    let elem = elem(lhs);
    MatmulAutotuneKey::generate(
        &lhs.client,
        l.shape(),
        r.shape(),
        l.strides(),
        r.strides(),
        l.tiling,
        r.tiling,
        elem,
        elem,
        elem,
        None,
        None,
    )
}

/// Launches one of CubeK's kernels, which read strides and copy only what is permuted beyond them.
pub(super) fn launch(strategy: &Strategy, lhs: CubeTensor, rhs: CubeTensor, out: CubeTensor) -> Result<(), String> {
    let (client, elem) = (out.client.clone(), elem(&lhs));
    let mut elems = MatmulElems::from_globals(&MatmulGlobalElems { lhs: elem, rhs: elem, out: elem });
    let [lhs, rhs] = [lhs, rhs].map(|side| InputBinding::new(side.binding(), elem));
    cubek::matmul::launch::launch_ref(&strategy.clone().into(), &client, lhs, rhs, out.binding(), &mut elems)
        .map_err(|error| format!("{error:?}"))
}
