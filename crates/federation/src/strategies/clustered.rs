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
        tracing::info!("{count} groups of clients: {}", (0..count).map(members).collect::<Vec<String>>().join(" | "));
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
