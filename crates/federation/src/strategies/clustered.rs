//! Clustered clients: FedIT within groups of clients that are alike, an adapter and a head a group. Groups are found as FedLEASE (Wang et al.,
//! NeurIPS 2025, arXiv 2509.15087) finds them, after the first round, in which each client trains from the start of all; its router,
//! by which a client mixes the groups' adapters, is not here.
//!
//! ```text
//! round 1:  d(i, j) = mean over targets of 1 − cos(ΔB_i, ΔB_j),  clusters of average linkage
//! round t:  X_g ← X_g + Σ_{k in g} w_k·ΔX_k                      X = A, B, head; w_k among the round's clients of g
//! ```
//!
//! A client that comes later trains its first round from the start of all as well, and joins the group whose B is nearest; what it sent
//! then is not averaged, since the others have gone on from there.

use bonfire_engine::{Active, Plan, Private, Role, RoleTensors, Upload};
use bonfire_models::{Factor, Matrix};

use super::{Common, Strategy};
use crate::client_products::{in_order, weights};
use crate::groups::Groups;
use crate::{FederationError, Server, grouping};

/// The strategy `clustered`.
#[derive(Clone, Debug, PartialEq)]
pub struct Clustered {
    /// Learning rates and head.
    pub common: Common,
    /// How many groups; `None`: as the silhouette says.
    pub groups: Option<usize>,
    /// How many at most, where it says.
    pub most: usize,
}

impl Strategy for Clustered {
    fn name(&self) -> &'static str {
        "clustered"
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn plan(&self, server: &Server) -> Plan {
        let private = Private { factors: vec![Factor::A, Factor::B], head: true, by_group: true, ..Private::default() };
        Plan { private, ..self.common.plan(server, Active::Both) }
    }

    fn aggregate(&self, server: &mut Server, uploads: &[Upload]) -> Result<(), FederationError> {
        let (round, uploads) = (server.round + 1, in_order(uploads));
        let mut groups = Groups::read(&server.state);
        let mut new: Vec<&Upload> = Vec::new();
        if groups.parts.is_empty() {
            groups = self.first_groups(&uploads, round);
        } else {
            new = uploads.iter().copied().filter(|u| groups.of[u.client].is_none()).collect();
        }
        for g in 0..groups.parts.len() {
            let own: Vec<&Upload> = uploads.iter().copied().filter(|u| groups.of[u.client] == Some(g)).collect();
            if !own.is_empty() {
                add_mean(&mut groups.parts[g].own, &own);
                groups.moved[g] = round;
            }
        }
        for upload in new {
            let nearest = nearest(&groups, b_of(upload));
            groups.join(upload.client, nearest, round);
        }
        groups.write(&mut server.state);
        Ok(())
    }
}

impl Clustered {
    /// The groups of those that have trained from the start of all; nothing has moved yet.
    fn first_groups(&self, uploads: &[&Upload], round: usize) -> Groups {
        let b: Vec<&[Matrix]> = uploads.iter().map(|upload| b_of(upload)).collect();
        let of = grouping::groups(&grouping::distances(&b), self.groups, self.most);
        let count = of.iter().max().map_or(0, |last| last + 1);
        let parts = vec![Default::default(); count];
        let mut groups = Groups { parts, moved: vec![round; count], ..Groups::none(self.common.clients) };
        uploads.iter().zip(&of).for_each(|(upload, &g)| groups.join(upload.client, g, round));
        let members = |g: usize| {
            let own = uploads.iter().zip(&of).filter(|(_, of)| **of == g).map(|(upload, _)| upload.client.to_string());
            own.collect::<Vec<String>>().join(" ")
        };
        let groups_are = if count == 1 { "group" } else { "groups" };
        tracing::info!(
            "{count} {groups_are} of clients: {}",
            (0..count).map(members).collect::<Vec<String>>().join(" | ")
        );
        groups
    }
}

/// By how much B has moved, target by target.
fn b_of(upload: &Upload) -> &[Matrix] {
    upload.factors.iter().find(|(factor, _)| *factor == Factor::B).map_or(&[], |(_, list)| list)
}

/// The group whose B is nearest to `b`; of equally near ones the first.
fn nearest(groups: &Groups, b: &[Matrix]) -> usize {
    let of_group = |g: usize| -> Vec<Matrix> {
        let own = &groups.parts[g].own;
        (0..b.len()).map(|t| own.get(&Role::Factor(t, Factor::B)).cloned().unwrap_or_default()).collect()
    };
    let mut best = (f64::INFINITY, 0);
    for g in 0..groups.parts.len() {
        let far = grouping::distance(&of_group(g), b);
        if far < best.0 {
            best = (far, g);
        }
    }
    best.1
}

/// `X ← X + Σ w_k·ΔX_k`, with `w_k = n_k / Σ n` over the uploads; sums in f64.
fn add_mean(own: &mut RoleTensors, uploads: &[&Upload]) {
    let weights = weights(uploads);
    let roles: Vec<Role> = uploads[0].roles().collect();
    for (i, role) in roles.into_iter().enumerate() {
        let moved: Vec<&Matrix> = uploads.iter().filter_map(|upload| upload.matrices().nth(i)).collect();
        let part = own.entry(role).or_insert_with(|| Matrix::zeros(moved[0].rows, moved[0].cols));
        for (at, value) in part.data.iter_mut().enumerate() {
            let mean: f64 = moved.iter().zip(&weights).map(|(m, w)| w * f64::from(m.data[at])).sum();
            *value = (f64::from(*value) + mean) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::testing::{server, uploads};

    const BOTH: [Factor; 2] = [Factor::A, Factor::B];

    fn strategy() -> Clustered {
        Clustered { common: Common { clients: 5, ..Common::plain(1e-2, 1e-2, false) }, groups: Some(2), most: 8 }
    }

    /// Four clients, of which 0 and 2 have moved B one way, 1 and 3 the other.
    fn two_kinds(before: &Server, seed: u64) -> Vec<Upload> {
        let mut all = uploads(before, &BOTH, &[3, 3, 3, 3], seed);
        let b = all[0].factors[1].1.clone();
        for upload in &mut all {
            let (way, noise) = (if upload.client % 2 == 0 { 1.0 } else { -1.0 }, upload.factors[1].1.clone());
            for ((own, b), noise) in upload.factors[1].1.iter_mut().zip(&b).zip(noise) {
                let values = b.data.iter().zip(noise.data).map(|(b, n)| way * b + 0.1 * n);
                own.data = values.collect();
            }
        }
        all
    }

    #[test]
    fn a_group_moves_by_the_weighted_mean_of_its_own_clients_round_after_round() {
        let mut found = server(3, 1);
        let before = found.clone();
        let rounds = [two_kinds(&before, 2), two_kinds(&before, 3)];
        for sent in &rounds {
            strategy().aggregate(&mut found, sent).expect("aggregates");
            found.round += 1;
        }
        assert_eq!(found.adapter, before.adapter, "what all begin with stays");
        assert_eq!([0, 1, 2, 3, 4].map(|k| found.group_of(k)), [Some(0), Some(1), Some(0), Some(1), None]);
        let groups = Groups::read(&found.state);
        for (g, members) in [[0, 2], [1, 3]].into_iter().enumerate() {
            for (f, factor) in BOTH.into_iter().enumerate() {
                for t in 0..2 {
                    let part = &groups.parts[g].own[&Role::Factor(t, factor)];
                    for (at, value) in part.data.iter().enumerate() {
                        // Client k has 3k + 1 examples.
                        let weight =
                            |k: usize| (3 * k + 1) as f64 / members.map(|k| 3 * k + 1).iter().sum::<usize>() as f64;
                        let of = |sent: &Vec<Upload>| {
                            members.map(|k| weight(k) * f64::from(sent[k].factors[f].1[t].data[at])).iter().sum::<f64>()
                        };
                        let expected: f64 = rounds.iter().map(of).sum();
                        assert!((f64::from(*value) - expected).abs() < 1e-6, "{g} {factor:?} {t} {at}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_client_that_comes_later_joins_its_like_and_moves_nothing() {
        let mut found = server(3, 1);
        let first = two_kinds(&found, 2);
        strategy().aggregate(&mut found, &first).expect("aggregates");
        found.round += 1;
        let before = Groups::read(&found.state);
        let mut late = first[3].clone();
        late.client = 4;
        strategy().aggregate(&mut found, &[late]).expect("aggregates");
        let after = Groups::read(&found.state);
        assert_eq!((after.of[4], after.joined[4]), (Some(1), 2));
        assert_eq!((after.parts, after.moved), (before.parts, before.moved));
    }
}
