//! Two sketches of a client's update, `A·B·Ω` and `Ψ·A·B`: both are linear in the product, so the server needs no more than the sum
//! of what clients send to know the sum of their products.

use bonfire_data::random::{Use, stream};
use bonfire_models::{Adapter, Factor, Matrix, standard_normal};

use crate::{ProductSketch, Role};

impl ProductSketch {
    /// Ω `[d_out, columns]` and Ψ `[rows, d_in]` of a target in a round, entries N(0, 1) from the seed: the same for all. Neither is
    /// wider than the target's own matrix.
    pub fn matrices(&self, round: usize, target: usize, d_in: usize, d_out: usize) -> (Matrix, Matrix) {
        let narrow = d_in.min(d_out);
        let (columns, rows) = (self.columns.min(narrow), self.rows.min(d_in));
        let draw = |which: u64, rows: usize, cols: usize| {
            let mut rng = stream(self.seed, Use::Sketch, round as u64, target as u64, which);
            Matrix::new(rows, cols, (0..rows * cols).map(|_| standard_normal(&mut rng) as f32).collect())
        };
        (draw(0, d_out, columns), draw(1, rows, d_in))
    }

    /// `A·(B·Ω)` `[d_in, columns]` and `(Ψ·A)·B` `[rows, d_out]` of every target, one after the other, for a client that moved so
    /// from `global`; without LoRA's scale.
    pub(crate) fn of(&self, round: usize, global: &Adapter, roles: &[Role], movement: &[Matrix]) -> Vec<Matrix> {
        let end = |t, factor| {
            let mut end = global.slot_rows(factor, t);
            let at = roles.iter().position(|role| *role == Role::Factor(t, factor)).expect("both factors train");
            end.data.iter_mut().zip(&movement[at].data).for_each(|(e, m)| *e += m);
            end
        };
        let of = |t: usize| {
            let (omega, psi) = self.matrices(round, t, global.targets[t].d_in, global.targets[t].d_out);
            let (a, b) = (end(t, Factor::A).transposed(), end(t, Factor::B));
            [a.matmul(&b.matmul(&omega)), psi.matmul(&a).matmul(&b)]
        };
        (0..global.targets.len()).flat_map(of).collect()
    }
}
