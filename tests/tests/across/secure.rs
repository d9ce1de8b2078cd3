//! What secure aggregation leaves the server with, the mean of a round's uploads, makes of it what the uploads make of it.

use std::collections::BTreeMap;

use bonfire_engine::Upload;
use bonfire_federation::{SecureSum, Settings, Weights};
use bonfire_models::Matrix;
use bonfire_tests::toy::STRATEGIES;

use super::sites::{apart, coordinator, settings, sites, train};

/// Besides every strategy: what composes with a sum.
const MORE: &[&str] = &[
    "[strategy]\nname = \"fedit\"\n[server]\noptimizer = { name = \"fedadam\", lr = 0.01 }",
    "[strategy]\nname = \"fedit\"\n[server]\nweights = \"uniform\"",
    "[strategy]\nname = \"fedit\"\n[server]\nweights = \"uniform\"\n[train]\nrounds = 4\nlr_a = 1e-3\nbatch_size = 4\nscaffold = true",
    "[strategy]\nname = \"fedit\"\n[wire]\ndownload = \"bf16\"",
];

fn matrices(upload: &mut Upload) -> Vec<&mut Matrix> {
    let factors = upload.factors.iter_mut().flat_map(|(_, list)| list);
    let aux = upload.aux.iter_mut().flat_map(|(_, list)| list);
    factors.chain(&mut upload.weights).chain(&mut upload.head).chain(aux).collect()
}

/// `Σ n_k·u_k / Σ n_k` in f64, or with every weight one.
fn mean(uploads: &[Upload], settings: &Settings) -> Upload {
    let uniform = settings.server.weights == Weights::Uniform;
    let weight = |u: &Upload| if uniform { 1.0 } else { u.examples as f64 };
    let total: f64 = uploads.iter().map(weight).sum();
    let mut all = uploads.to_vec();
    let weights: Vec<f64> = uploads.iter().map(|u| weight(u) / total).collect();
    let mut mean = uploads[0].clone();
    for (i, into) in matrices(&mut mean).into_iter().enumerate() {
        let mut sum = vec![0.0; into.data.len()];
        for (upload, weight) in all.iter_mut().zip(&weights) {
            let from = &matrices(upload)[i].data;
            sum.iter_mut().zip(from).for_each(|(s, v)| *s += weight * f64::from(*v));
        }
        into.data.iter_mut().zip(sum).for_each(|(v, s)| *v = s as f32);
    }
    mean.loss = uploads.iter().zip(&weights).map(|(u, w)| w * u.loss).sum();
    mean.tokens = uploads.iter().map(|u| u.tokens).sum();
    mean
}

#[test]
fn the_mean_alone_makes_the_same_server() {
    let strategies = STRATEGIES.iter().filter(|strategy| !strategy.contains("pooled"));
    let strategies = strategies.map(|strategy| format!("[strategy]\n{strategy}"));
    let mut served = Vec::new();
    for sections in strategies.chain(MORE.iter().map(|text| text.to_string())) {
        let settings = settings(&sections);
        if settings.against_secure_aggregation().is_some() {
            continue;
        }
        served.push(settings.strategy.name());
        let (mut plain, mut secure, mut sites) = (coordinator(&settings), coordinator(&settings), sites(&settings));
        while !plain.is_finished() {
            let (plan, cohort) = (plain.plan(), plain.cohort());
            let uploads: Vec<Upload> =
                sites.iter_mut().flat_map(|site| train(site, &plain, &plan, &cohort, false)).collect();
            let sum = SecureSum {
                mean: mean(&uploads, &settings),
                examples: uploads.iter().map(|u| (u.client, u.examples)).collect(),
                sites: 3,
                bytes: 777,
            };
            let of_each = plain.aggregate(&plan, &uploads, &cohort, &[]).unwrap().0;
            // Its own plan holds what it has made of the sums: control variates.
            let own = secure.plan();
            let of_sum = sum.traffic(secure.aggregate(&own, &sum.uploads(), &cohort, &[]).unwrap().0);
            assert_eq!((of_sum.upload_params * 4, of_sum.upload_bytes), (of_each.upload_params * 3, 777), "{sections}");
            assert_eq!(of_sum.download_bytes, of_each.download_bytes, "{sections}");
            let far = apart(secure.server(), plain.server());
            assert!(far < 1e-5, "{sections}, round {}: apart by {far:e}", plan.round);
            let rows = [(&plain, &plan, &uploads), (&secure, &own, &sum.uploads())]
                .map(|(server, plan, uploads)| server.row(plan, uploads, of_each, None));
            // A row weighs losses by examples, and of a sum without weights it has no other mean.
            let uniform = settings.server.weights == Weights::Uniform;
            assert!(uniform || (rows[0].train_loss - rows[1].train_loss).abs() < 1e-9, "{sections}");
            assert_eq!(rows[0].tokens, rows[1].tokens, "{sections}");
        }
        same_arrays(&plain.plan().to_message().1, &secure.plan().to_message().1, &sections);
    }
    let expected = "fedit ffa-lora rolora fedsa-lora sa-fedlora sora dfl replication fedsvd fslora fed-plora fedrot-lora \
                    la-lora fedask fedit fedit fedit fedit";
    assert_eq!(served.join(" "), expected);
}

/// What plans hold besides numbers of their own: to the same share of the largest as models.
fn same_arrays(one: &BTreeMap<String, Matrix>, other: &BTreeMap<String, Matrix>, sections: &str) {
    assert!(one.keys().eq(other.keys()), "{sections}");
    let largest = one.values().flat_map(|m| &m.data).fold(0f32, |most, v| most.max(v.abs()));
    let pairs = one.values().zip(other.values()).flat_map(|(x, y)| x.data.iter().zip(&y.data));
    let far = pairs.fold(0f32, |most, (x, y)| most.max((x - y).abs()));
    assert!(far <= 1e-5 * largest, "{sections}: apart by {far:e} of {largest:e}");
    assert_eq!(one.is_empty(), !sections.contains("scaffold"), "{sections}");
}
