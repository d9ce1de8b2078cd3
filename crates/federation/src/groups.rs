//! Clients in groups, each with a model of its own: where the server keeps who is in which and what each group has, in its
//! [`State`], and how clients hold it. What a group has is kept as a movement from the start of all, which stays.

use bonfire_engine::ClientMemory;
use bonfire_models::Matrix;

use crate::State;

/// Name of the table that says each client's group, `[1, clients]`: one more than its number, or 0.
const OF: &str = "group-of";
/// Name of the table that says in which round each client came to its group, `[1, clients]`.
const JOINED: &str = "group-joined";
/// Name of the table that says which round last moved each group, `[1, groups]`.
const MOVED: &str = "group-moved";

/// Kind of the state that holds what `group` has.
fn kind(group: usize) -> String {
    format!("group/{group}")
}

/// The groups after a round; none where no client is in one.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Groups {
    /// Of every client of the federation, its group.
    pub of: Vec<Option<usize>>,
    /// Of every client, the round in which it came to its group; 0 without one.
    pub joined: Vec<usize>,
    /// What each group has, as its clients remember it.
    pub parts: Vec<ClientMemory>,
    /// Of every group, the round that last moved it.
    pub moved: Vec<usize>,
}

impl Groups {
    /// No groups yet, of so many clients.
    pub fn none(clients: usize) -> Groups {
        Groups { of: vec![None; clients], joined: vec![0; clients], ..Groups::default() }
    }

    /// Those that `state` holds.
    pub fn read(state: &State) -> Groups {
        let numbers = |name| state.table(name).map_or(&[] as &[f32], |table| &table.data);
        let whole = |name| numbers(name).iter().map(|&v| v as usize).collect::<Vec<usize>>();
        let (of, moved) = (whole(OF).into_iter().map(|g| g.checked_sub(1)).collect(), whole(MOVED));
        let part = |group| ClientMemory { own: state.tensors(&kind(group)), ..ClientMemory::default() };
        Groups { of, joined: whole(JOINED), parts: (0..moved.len()).map(part).collect(), moved }
    }

    /// Puts them into `state`.
    pub fn write(self, state: &mut State) {
        let row = |numbers: Vec<usize>| Matrix::new(1, numbers.len(), numbers.iter().map(|&n| n as f32).collect());
        state.set_table(OF, row(self.of.iter().map(|group| group.map_or(0, |g| g + 1)).collect()));
        state.set_table(JOINED, row(self.joined));
        state.set_table(MOVED, row(self.moved));
        for (group, part) in self.parts.into_iter().enumerate() {
            state.set_tensors(&kind(group), part.own);
        }
    }

    /// What `client` has of its group; `None`: it is in none.
    pub fn memory(&self, client: usize) -> Option<&ClientMemory> {
        self.parts.get((*self.of.get(client)?)?)
    }

    /// Puts `client` into `group` after `round`.
    pub fn join(&mut self, client: usize, group: usize, round: usize) {
        (self.of[client], self.joined[client]) = (Some(group), round);
    }
}

fn number(state: &State, table: &str, at: usize) -> Option<usize> {
    state.table(table)?.data.get(at).map(|&v| v as usize)
}

/// The group of `client`, from 0.
pub(crate) fn group_of(state: &State, client: usize) -> Option<usize> {
    number(state, OF, client)?.checked_sub(1)
}

/// Whether `client`, which last downloaded at the start of round `seen`, lacks what its group has.
pub(crate) fn is_newer(state: &State, client: usize, seen: usize) -> bool {
    let Some(group) = group_of(state, client) else { return false };
    let latest = number(state, MOVED, group).max(number(state, JOINED, client));
    latest.is_some_and(|round| round >= seen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bonfire_engine::{Role, RoleTensors};
    use bonfire_models::Factor;

    #[test]
    fn a_state_gives_back_the_groups_that_were_put_into_it() {
        let part = |v: f32| {
            let own = RoleTensors::from([(Role::Factor(0, Factor::B), Matrix::new(1, 2, vec![v, -v]))]);
            ClientMemory { own, ..ClientMemory::default() }
        };
        let mut groups = Groups { parts: vec![part(1.0), part(2.0)], moved: vec![3, 4], ..Groups::none(3) };
        groups.join(0, 1, 1);
        groups.join(2, 0, 5);
        let mut state = State::default();
        groups.clone().write(&mut state);
        assert_eq!(Groups::read(&state), groups);
        assert_eq!([0, 1, 2].map(|client| group_of(&state, client)), [Some(1), None, Some(0)]);
        assert_eq!((groups.memory(2), groups.memory(1)), (Some(&part(1.0)), None));
        assert_eq!(Groups::read(&State::default()), Groups::default());
    }

    #[test]
    fn a_client_lacks_what_its_group_has_when_that_moved_or_it_has_just_come() {
        let mut groups = Groups { parts: vec![ClientMemory::default()], moved: vec![3], ..Groups::none(3) };
        groups.join(0, 0, 1);
        groups.join(1, 0, 5);
        let mut state = State::default();
        groups.write(&mut state);
        // It began round 3 with what the group had before that round.
        assert!(is_newer(&state, 0, 3) && !is_newer(&state, 0, 4));
        assert!(is_newer(&state, 1, 5) && !is_newer(&state, 1, 6));
        assert!(!is_newer(&state, 2, 0));
    }
}
