//! What some clients leave, gathered into a table.

use super::*;
use crate::cube::gather::gather;

#[test]
pub(super) fn some_clients_in_any_order() {
    let Some(device) = device() else { return };
    let mut random = Random::new(5);
    for (clients, rows, cols, lanes, at) in
        [(4, 3, 70, vec![3, 0, 3], 5), (1, 2, 9, vec![0], 0), (5, 1, 1, vec![4, 1], 2), (3, 40, 33, vec![0, 1, 2], 1)]
    {
        let width = at + rows * cols + 2;
        let before = random.numbers(lanes.len() * width);
        let stack = random.numbers(clients * rows * cols);
        let mut expected: Vec<f64> = before.iter().map(|v| f64::from(*v)).collect();
        for (end, lane) in lanes.iter().enumerate() {
            for i in 0..rows * cols {
                expected[end * width + at + i] = f64::from(stack[lane * rows * cols + i]);
            }
        }
        let whose: Vec<f32> = lanes.iter().map(|lane| *lane as f32).collect();
        for put in LAYOUTS {
            let table = put(&before, &[lanes.len(), width], &device);
            let whose = to_device(&whose, &[lanes.len()], &device);
            let found = gather(table, put(&stack, &[clients, rows, cols], &device), whose, at);
            close(&format!("{rows} x {cols} of {lanes:?}"), &values(found), &expected);
        }
    }
}
