//! Which of an upload's numbers were sent: a byte that says how, then one bit a number (0), or from each place the steps to the
//! next (1), seven bits a byte, the lowest first and the highest bit set where more follow. The shorter of the two is written.

const BITS: u8 = 0;
const STEPS: u8 = 1;

/// The places of the `count` largest numbers by size, ascending; of equals the first.
pub(super) fn largest(numbers: &[f32], count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..numbers.len()).collect();
    if count < numbers.len() {
        places.select_nth_unstable_by(count, |&x, &y| numbers[y].abs().total_cmp(&numbers[x].abs()).then(x.cmp(&y)));
        places.truncate(count);
        places.sort_unstable();
    }
    places
}

/// The most bytes that the places of some of so many numbers take.
pub(super) fn most(numbers: usize) -> usize {
    1 + numbers.div_ceil(8)
}

/// Appends `places`, ascending, of so many numbers.
pub(super) fn write(places: &[usize], numbers: usize, bytes: &mut Vec<u8>) {
    let mut steps = Vec::new();
    let mut next = 0;
    for &place in places {
        let mut step = place - next;
        while step >= 128 {
            steps.push(step as u8 | 128);
            step >>= 7;
        }
        steps.push(step as u8);
        next = place + 1;
    }
    if steps.len() < numbers.div_ceil(8) {
        bytes.push(STEPS);
        bytes.extend(steps);
    } else {
        let mut bits = vec![0u8; numbers.div_ceil(8)];
        places.iter().for_each(|place| bits[place / 8] |= 1 << (place % 8));
        bytes.push(BITS);
        bytes.extend(bits);
    }
}

/// Reads `count` places of so many numbers off the front of `bytes`.
///
/// # Errors
/// Bytes that name others, or another number of them.
pub(super) fn read(bytes: &mut &[u8], numbers: usize, count: usize) -> Result<Vec<usize>, String> {
    let [how] = super::code::take(bytes)?;
    let places: Vec<usize> = match how {
        BITS => {
            let (bits, rest) = bytes.split_at_checked(numbers.div_ceil(8)).ok_or("it is cut short")?;
            *bytes = rest;
            (0..8 * bits.len()).filter(|at| bits[at / 8] >> (at % 8) & 1 == 1).collect()
        }
        STEPS => {
            let (mut places, mut next) = (Vec::with_capacity(count), 0usize);
            for _ in 0..count {
                let (mut step, mut shift) = (0usize, 0);
                loop {
                    let [byte] = super::code::take(bytes)?;
                    step |= usize::from(byte & 127) << shift;
                    shift += 7;
                    if byte < 128 {
                        break;
                    }
                    if shift > 35 {
                        return Err("it names places that cannot be".into());
                    }
                }
                places.push(next + step);
                next += step + 1;
            }
            places
        }
        other => return Err(format!("it says which numbers it holds in a way ({other}) that is not known")),
    };
    if places.len() != count || places.last().is_some_and(|last| *last >= numbers) {
        return Err("it names other numbers than it holds".into());
    }
    Ok(places)
}
