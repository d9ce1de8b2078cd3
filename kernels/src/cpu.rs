//! The CPU paths of this crate's operations, for Burn's Flex backend: all threads, vector instructions chosen at run
//! time, one pass over memory where composed operations make several.

mod attention;
mod decoder;
mod dropout;
mod gelu;
mod halves;
mod linear;
mod loss;
mod micro;
mod norm;
mod optimizer;
mod tf32;

use std::mem::MaybeUninit;

use burn::backend::TensorMetadata;
use burn::tensor::Shape;
use burn_flex::{Flex, FlexTensor, Layout};

use self::halves::{narrow, wide};
pub(crate) use self::tf32::in_tf32;
use crate::backends::{Finish, Kernels, LinearGradients, LinearSaved, Pair, UpdateSaved, Wanted};
use crate::masks::DropMask;
use crate::options::{AttentionLayout, Bend, LinearLayout};

/// Elements a thread takes at a time in elementwise loops: 64 KiB, so that a task is longer than its dispatch and
/// its inputs and outputs stay in the core's own cache.
pub(crate) const ELEMENTS_A_TASK: usize = 1 << 14;

/// A tensor of the CPU backend from its numbers, row-major.
pub(crate) fn tensor(data: Vec<f32>, shape: Shape) -> FlexTensor {
    FlexTensor::new(burn::tensor::Bytes::from_elems(data), Layout::contiguous(shape), burn::backend::DType::F32)
}

/// The tensor with its elements row-major from the start of its storage; a copy where it was a view.
pub(crate) fn dense(t: FlexTensor) -> FlexTensor {
    let whole = t.layout().contiguous_offsets().is_some_and(|(start, _)| start == 0);
    if whole {
        t
    } else if t.is_contiguous() {
        tensor(t.as_slice::<f32>().expect("contiguous f32").to_vec(), t.shape())
    } else {
        t.to_contiguous()
    }
}

/// The elements of a [`dense`] tensor.
pub(crate) fn values(t: &FlexTensor) -> &[f32] {
    &t.storage()[..t.shape().num_elements()]
}

/// `n` numbers that `write` writes: filling large buffers twice would cost as much as an elementwise operation.
///
/// # Safety
/// `write` writes every one of them, and reads none before.
#[allow(unsafe_code)]
pub(crate) unsafe fn filled<T>(n: usize, write: impl FnOnce(&mut [f32]) -> T) -> (Vec<f32>, T) {
    let mut data: Box<[MaybeUninit<f32>]> = Box::new_uninit_slice(n);
    // SAFETY: the same memory, which `write` only writes to until it has written all of it.
    let given = write(unsafe { std::slice::from_raw_parts_mut(data.as_mut_ptr().cast::<f32>(), n) });
    // SAFETY: `write` has written every number.
    (unsafe { data.assume_init() }.into_vec(), given)
}

/// The rows of `data`, `width` numbers each, cut into the given consecutive runs.
pub(crate) fn split(mut data: &mut [f32], lengths: impl Iterator<Item = usize>, width: usize) -> Vec<&mut [f32]> {
    lengths
        .map(|rows| {
            let (head, tail) = std::mem::take(&mut data).split_at_mut(rows * width);
            data = tail;
            head
        })
        .collect()
}

// All of them compute in f32; tensors held in 16 bits are widened before and rounded after, as on GPUs.
impl Kernels for Flex {
    fn linear_forward(
        x: &FlexTensor,
        w: &FlexTensor,
        bias: Option<FlexTensor>,
        pairs: &[Pair<Self>],
        layout: &LinearLayout,
    ) -> (FlexTensor, Vec<FlexTensor>) {
        let held = x.dtype();
        let (y, h) = linear::forward(&wide(x.clone()), &wide(w.clone()), bias.map(wide), pairs, layout);
        (narrow(y, held), h)
    }

    fn linear_gelu_forward(
        x: &FlexTensor,
        w: &FlexTensor,
        bias: Option<FlexTensor>,
        pairs: &[Pair<Self>],
        layout: &LinearLayout,
    ) -> (FlexTensor, FlexTensor, Vec<FlexTensor>) {
        // A pass of its own: where the result is written, block by block, it brought nothing. Of the rounded result, as on GPUs.
        let (y, h) = Self::linear_forward(x, w, bias, pairs, layout);
        let bent = Self::gelu_elements(&y);
        (y, bent, h)
    }

    fn linear_backward(
        saved: LinearSaved<Self>,
        dy: FlexTensor,
        finish: Finish<FlexTensor>,
        wanted: &Wanted,
        layout: &LinearLayout,
    ) -> LinearGradients<Self> {
        let held = dy.dtype();
        let saved = LinearSaved { x: saved.x.map(wide), w: wide(saved.w), ..saved };
        let found = linear::backward(saved, wide(dy), finish.map(wide), wanted, layout);
        LinearGradients { x: found.x.map(|dx| narrow(dx, held)), ..found }
    }

    fn update_forward(
        y: FlexTensor,
        x: &FlexTensor,
        pair: &Pair<Self>,
        layout: &LinearLayout,
    ) -> (FlexTensor, FlexTensor) {
        let held = y.dtype();
        let (y, h) = linear::update(wide(y), &wide(x.clone()), pair, layout);
        (narrow(y, held), h)
    }

    fn update_backward(
        saved: UpdateSaved<Self>,
        dy: FlexTensor,
        wanted: &Wanted,
        layout: &LinearLayout,
    ) -> LinearGradients<Self> {
        let held = dy.dtype();
        let saved = UpdateSaved { x: saved.x.map(wide), ..saved };
        let found = linear::update_backward(saved, wide(dy), wanted, layout);
        LinearGradients { x: found.x.map(|dx| narrow(dx, held)), ..found }
    }

    fn drop_elements(x: FlexTensor, mask: &DropMask) -> FlexTensor {
        let held = x.dtype();
        narrow(dropout::dropped(wide(x), mask), held)
    }

    fn add_norm_rows(
        x: FlexTensor,
        r: FlexTensor,
        gamma: FlexTensor,
        beta: FlexTensor,
        eps: f64,
    ) -> (FlexTensor, FlexTensor) {
        let held = x.dtype();
        let (y, sum) = norm::forward(wide(x), wide(r), wide(gamma), wide(beta), eps);
        (narrow(y, held), narrow(sum, held))
    }

    fn add_norm_backward(sum: FlexTensor, gamma: FlexTensor, dy: FlexTensor, eps: f64) -> FlexTensor {
        let held = dy.dtype();
        narrow(norm::backward(wide(sum), wide(gamma), wide(dy), eps), held)
    }

    fn gelu_elements(x: &FlexTensor) -> FlexTensor {
        narrow(gelu::forward(&wide(x.clone())), x.dtype())
    }

    fn gelu_elements_backward(x: &FlexTensor, dy: FlexTensor) -> FlexTensor {
        let held = dy.dtype();
        narrow(gelu::backward(&wide(x.clone()), wide(dy)), held)
    }

    fn rms_rows(x: &FlexTensor, gamma: FlexTensor, offset: f64, eps: f64) -> FlexTensor {
        narrow(decoder::rms(wide(x.clone()), wide(gamma), offset, eps), x.dtype())
    }

    fn rms_backward(
        x: &FlexTensor,
        gamma: FlexTensor,
        dy: FlexTensor,
        residual: Option<FlexTensor>,
        offset: f64,
        eps: f64,
    ) -> FlexTensor {
        let held = dy.dtype();
        let dx = decoder::rms_backward(wide(x.clone()), wide(gamma), wide(dy), residual.map(wide), offset, eps);
        narrow(dx, held)
    }

    fn glu_forward(x: &FlexTensor, bend: Bend) -> FlexTensor {
        narrow(decoder::glu(wide(x.clone()), bend), x.dtype())
    }

    fn glu_backward(x: &FlexTensor, dy: FlexTensor, bend: Bend) -> FlexTensor {
        let held = dy.dtype();
        narrow(decoder::glu_backward(wide(x.clone()), wide(dy), bend), held)
    }

    fn turn(x: FlexTensor, cos: FlexTensor, sin: FlexTensor, heads: usize, back: bool) -> FlexTensor {
        let held = x.dtype();
        narrow(decoder::turn(wide(x), wide(cos), wide(sin), heads, back), held)
    }

    fn attention_forward(qkv: &FlexTensor, layout: &AttentionLayout) -> (FlexTensor, Vec<FlexTensor>) {
        let (out, kept) = attention::forward(&wide(qkv.clone()), layout);
        (narrow(out, qkv.dtype()), kept)
    }

    fn attention_backward(
        qkv: &FlexTensor,
        kept: Vec<FlexTensor>,
        dy: FlexTensor,
        layout: &AttentionLayout,
    ) -> FlexTensor {
        let held = dy.dtype();
        narrow(attention::backward(&wide(qkv.clone()), &kept[0], wide(dy), layout), held)
    }
}
