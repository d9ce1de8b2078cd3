//! What a server remembers between rounds besides the model. Strategies keep it by names of their own, so that a checkpoint
//! can hold it without knowing the strategy.

use std::collections::BTreeMap;

use bonfire_engine::{Role, RoleTensors};
use bonfire_models::Matrix;

/// Tensors that go with what trains, kind by kind (`control`, `server-first`), and tables that do not (`live`, `ranks`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    kinds: BTreeMap<String, RoleTensors>,
    tables: BTreeMap<String, Matrix>,
}

impl State {
    /// The tensors of a kind.
    pub fn tensors(&self, kind: &str) -> RoleTensors {
        self.kinds.get(kind).cloned().unwrap_or_default()
    }

    /// The tensor of a kind.
    pub fn tensor(&self, kind: &str, role: Role) -> Option<&Matrix> {
        self.kinds.get(kind)?.get(&role)
    }

    /// The tensor of a kind, zeros `[rows, cols]` where there is none yet.
    pub fn tensor_mut(&mut self, kind: &str, role: Role, [rows, cols]: [usize; 2]) -> &mut Matrix {
        let tensors = self.kinds.entry(kind.into()).or_default();
        tensors.entry(role).or_insert_with(|| Matrix::zeros(rows, cols))
    }

    /// Replaces the tensors of a kind.
    pub fn set_tensors(&mut self, kind: &str, tensors: RoleTensors) {
        self.kinds.insert(kind.into(), tensors);
    }

    /// The table of that name.
    pub fn table(&self, name: &str) -> Option<&Matrix> {
        self.tables.get(name)
    }

    /// Sets the table of that name.
    pub fn set_table(&mut self, name: &str, table: Matrix) {
        self.tables.insert(name.into(), table);
    }

    /// Everything under its name in files: `control/a/3` for a tensor, `live` for a table.
    pub fn named(&self) -> impl Iterator<Item = (String, &Matrix)> {
        let tensors = self.kinds.iter().flat_map(|(kind, tensors)| tensors.iter().map(move |entry| (kind, entry)));
        let tensors = tensors.map(|(kind, (role, matrix))| (format!("{kind}/{role}"), matrix));
        tensors.chain(self.tables.iter().map(|(name, matrix)| (name.clone(), matrix)))
    }

    /// Takes in what [`State::named`] gave: a name that ends in a role's is a tensor's.
    pub fn insert_named(&mut self, name: &str, matrix: Matrix) {
        let kind_of = |at: usize| Some((&name[..at], name[at + 1..].parse::<Role>().ok()?));
        // `control/a/3`: the role's own name has a slash in it.
        let tensor = name.rmatch_indices('/').nth(1).and_then(|(at, _)| kind_of(at));
        match tensor {
            Some((kind, role)) => {
                self.kinds.entry(kind.into()).or_default().insert(role, matrix);
            }
            None => self.set_table(name, matrix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bonfire_models::Factor;

    #[test]
    fn names_are_read_back() {
        let mut state = State::default();
        let matrix = |v: f32| Matrix::new(1, 1, vec![v]);
        for (i, kind) in ["control", "variate/server", "momentum/12"].into_iter().enumerate() {
            *state.tensor_mut(kind, Role::Factor(3, Factor::B), [1, 1]) = matrix(i as f32);
            *state.tensor_mut(kind, Role::Head(0), [1, 1]) = matrix(-(i as f32));
        }
        state.set_table("live", matrix(7.0));
        let names: Vec<String> = state.named().map(|(name, _)| name).collect();
        assert!(names.contains(&"momentum/12/b/3".into()) && names.contains(&"live".into()), "{names:?}");
        let mut read = State::default();
        state.named().for_each(|(name, matrix)| read.insert_named(&name, matrix.clone()));
        assert_eq!(read, state);
    }
}
