//! Loops of the host spread over all threads.

/// `of` each of `0..count`, in order.
pub(super) fn each<T: Send>(count: usize, of: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(count.max(1));
    let of = &of;
    // Dealt out in turns: neighbours are of like size.
    let work = |first: usize| (first..count).step_by(threads).map(|i| (i, of(i))).collect::<Vec<_>>();
    let mut found: Vec<(usize, T)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|first| scope.spawn(move || work(first))).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("plain loops do not panic")).collect()
    });
    found.sort_by_key(|(i, _)| *i);
    found.into_iter().map(|(_, value)| value).collect()
}

#[cfg(test)]
mod tests {
    use super::each;

    #[test]
    fn results_come_in_order() {
        assert_eq!(each(7, |i| i * i), [0, 1, 4, 9, 16, 25, 36]);
        assert!(each(0, |i| i).is_empty());
    }
}
