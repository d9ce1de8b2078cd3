//! What trains, in flat buffers `[C, width]`: a client's tensors lie in its row one after the other, so that the optimizer steps all of
//! them at once. There is one buffer, or as many as a device's largest buffers ask for.

use bonfire_kernels::{FlatLayout, Moving, StepRule, device_buffer_limit};
use bonfire_models::Matrix;
use burn::tensor::{Device, Tensor, TensorData};

use super::Parameter;
use crate::NotFinite;
use crate::lanes::{cleared, take};

/// Numbers of a buffer at most: one of a GB. Memory for much larger ones is hard to find again when it is free.
const MOST: u64 = 1 << 28;

/// A trained tensor before it has a place: rows and columns, its rates, whether it is folded, and its start where that is known.
pub(super) type Tenant<'m> = ([usize; 2], usize, bool, Option<&'m Matrix>);

/// Where a trained tensor lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Which group.
    pub group: usize,
    /// Which of the group's tensors.
    pub number: usize,
    /// Rows and columns of a client; a row of a factor is a slot.
    pub dims: [usize; 2],
}

/// Tensors that are stepped at once.
pub(crate) struct Group {
    pub layout: FlatLayout,
    /// `[1, width]`, or `[C, width]` where clients hold different slots: the round's start.
    pub start: Tensor<2>,
    pub state: Moving,
}

impl Parameter {
    /// The round's start, `[C|1, rows, cols]`. As all below it lies among others; nothing is copied.
    pub fn start(&self, groups: &[Group]) -> Tensor<3> {
        self.of(groups, |group| &group.start)
    }

    /// End minus start so far, `[C, rows, cols]`.
    pub fn movement(&self, groups: &[Group]) -> Tensor<3> {
        self.of(groups, |group| &group.state.movement)
    }

    /// What the model reads, `[C, rows, cols]`.
    pub fn weights(&self, groups: &[Group]) -> Tensor<3> {
        self.of(groups, |group| &group.state.weights)
    }

    fn of(&self, groups: &[Group], flat: impl Fn(&Group) -> &Tensor<2>) -> Tensor<3> {
        let group = &groups[self.place.group];
        group.layout.tensor(flat(group), self.place.number)
    }
}

/// Matrices of some tensors on the device, of each tensor one a lane: `[lanes, rows, cols]` each. They lie beside one another and come
/// in one transfer, or in as many as a device's largest buffers ask for.
pub(super) fn together(tensors: &[Vec<Matrix>], device: &Device) -> Vec<Tensor<3>> {
    let (lanes, mut rest) = (tensors.first().map_or(1, Vec::len), tensors);
    let dims = |tensor: &Vec<Matrix>| [tensor[0].rows, tensor[0].cols];
    let mut found = Vec::new();
    for count in buffers(tensors.iter().map(dims), lanes, device) {
        let (here, later) = rest.split_at(count);
        rest = later;
        let layout = FlatLayout::new(here.iter().map(|tensor| (dims(tensor), 0, false)));
        let mut rows = vec![0f32; lanes * layout.width()];
        for (place, matrices) in layout.places().iter().zip(here) {
            for (row, matrix) in rows.chunks_mut(layout.width().max(1)).zip(matrices) {
                row[place.columns()].copy_from_slice(&matrix.data);
            }
        }
        let flat = Tensor::from_data(TensorData::new(rows, [lanes, layout.width()]), device);
        found.extend((0..count).map(|i| layout.tensor(&flat, i)));
    }
    found
}

/// Of tensors of these dimensions, one after the other, how many each buffer of so many `lanes` takes.
fn buffers(dims: impl Iterator<Item = [usize; 2]>, lanes: usize, device: &Device) -> Vec<usize> {
    let most = device_buffer_limit(device).map_or(u64::MAX, |bytes| (bytes / size_of::<f32>() as u64).min(MOST));
    let most = (most / lanes as u64) as usize;
    let (mut counts, mut width) = (Vec::new(), 0);
    for own in dims.map(FlatLayout::width_of) {
        if counts.is_empty() || width + own > most {
            counts.push(0);
            width = 0;
        }
        width += own;
        *counts.last_mut().expect("just pushed") += 1;
    }
    counts
}

impl Group {
    /// Groups of so many `lanes` that step by `rule`, and the place of each tensor.
    pub(super) fn of(tensors: &[Tenant], lanes: usize, rule: &StepRule, device: &Device) -> (Vec<Group>, Vec<Place>) {
        let (mut groups, mut places, mut rest) = (Vec::new(), Vec::new(), tensors);
        for (group, count) in buffers(tensors.iter().map(|tensor| tensor.0), lanes, device).into_iter().enumerate() {
            let (here, later) = rest.split_at(count);
            rest = later;
            places.extend(here.iter().enumerate().map(|(number, tensor)| Place { group, number, dims: tensor.0 }));
            groups.push(Group::new(here, lanes, rule, device));
        }
        (groups, places)
    }

    fn new(tensors: &[Tenant], lanes: usize, rule: &StepRule, device: &Device) -> Group {
        let layout = FlatLayout::new(tensors.iter().map(|&(dims, rates, folded, _)| (dims, rates, folded)));
        let mut row = vec![0f32; layout.width()];
        for (place, (.., start)) in layout.places().iter().zip(tensors) {
            if let Some(start) = start {
                row[place.columns()].copy_from_slice(&start.data);
            }
        }
        let start = Tensor::from_data(TensorData::new(row, [1, layout.width()]), device);
        Group { state: Moving::new(lanes, &start, &layout, rule), layout, start }
    }

    /// Makes the lanes zero that `keep` `[C, 1, 1]` has zeros for; all of them where there is none.
    pub(super) fn clear(&mut self, keep: Option<&Tensor<3>>, policy: NotFinite) {
        let clear = |t: Tensor<2>| match keep {
            Some(keep) => cleared(t, &keep.clone().squeeze_dim(2), policy),
            None => t.zeros_like(),
        };
        let state = self.taken();
        let [movement, first, second] = [state.movement, state.first, state.second].map(clear);
        self.state = Moving { movement, first, second, ..state };
    }

    /// Brings what the lanes hold of factors to the device: a matrix a lane of each, in one transfer. What is no factor comes after
    /// them, and stays.
    pub(super) fn load_starts(&mut self, lanes: usize, factors: &[(Place, Vec<Matrix>)], device: &Device) {
        let Some((last, _)) = factors.last() else { return };
        let width = self.layout.places()[last.number].columns().end;
        let mut rows = vec![0f32; lanes * width];
        for (place, matrices) in factors {
            let columns = self.layout.places()[place.number].columns();
            for (row, matrix) in rows.chunks_mut(width).zip(matrices) {
                row[columns.clone()].copy_from_slice(&matrix.data);
            }
        }
        let factors = Tensor::<2>::from_data(TensorData::new(rows, [lanes, width]), device);
        let rest = self.layout.width() - width;
        self.start = if rest == 0 {
            factors
        } else {
            let rest = self.start.clone().narrow(1, width, rest).expand([lanes as i64, -1]);
            Tensor::cat(vec![factors, rest], 1)
        };
    }

    /// Matrices of some lanes at their places, zeros elsewhere: `[C, width]`, in one transfer.
    pub(super) fn row_of_each(&self, lanes: usize, of: &[(Place, usize, &Matrix)], device: &Device) -> Tensor<2> {
        let width = self.layout.width();
        let mut rows = vec![0f32; lanes * width];
        for (place, lane, matrix) in of {
            let at = lane * width + self.layout.places()[place.number].at;
            rows[at..at + matrix.data.len()].copy_from_slice(&matrix.data);
        }
        Tensor::from_data(TensorData::new(rows, [lanes, width]), device)
    }

    /// Weights of lanes whose start or movement has changed.
    pub(super) fn begin(&mut self) {
        self.state = self.taken().from_start(&self.start, &self.layout);
    }

    /// The state, taken out of its place: where nothing else holds a tensor, it may be changed where it lies.
    pub fn taken(&mut self) -> Moving {
        let device = self.start.device();
        take(&mut self.state, &device)
    }
}
