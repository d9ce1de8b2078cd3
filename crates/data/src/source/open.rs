//! Opening a file of rows: what is packed by gzip or zstd is unpacked on the way, as long as it stays within what its size
//! can explain.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

use crate::DataError;

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// How many times its size a packed file may become. Texts of people become four times as long, logs at most some dozens.
pub(super) const MOST_TIMES: u64 = 200;

/// What every packed file may become.
pub(super) const ALWAYS: u64 = 64 << 20;

/// The bytes of a file, unpacked where its first bytes say that it is packed, whatever it is called.
pub(super) fn open(path: &Path) -> Result<Box<dyn BufRead>, DataError> {
    opened(path).map_err(|source| DataError::Read { path: path.to_path_buf(), source })
}

fn opened(path: &Path) -> io::Result<Box<dyn BufRead>> {
    let mut file = File::open(path)?;
    let allowed = allowed(file.metadata()?.len());
    let mut start = Vec::new();
    (&mut file).take(4).read_to_end(&mut start)?;
    file.rewind()?;
    let packed = BufReader::with_capacity(1 << 16, file);
    let plain: Box<dyn Read> = if start.starts_with(&GZIP) {
        Box::new(MultiGzDecoder::new(packed))
    } else if start == ZSTD {
        Box::new(Frames { current: Some(frame(packed)?) })
    } else {
        return Ok(Box::new(packed));
    };
    Ok(Box::new(BufReader::with_capacity(1 << 16, Bounded { inner: plain, left: allowed })))
}

/// What a packed file of so many bytes may hold.
pub(super) fn allowed(packed: u64) -> u64 {
    packed.saturating_mul(MOST_TIMES).max(ALWAYS)
}

type Frame = StreamingDecoder<BufReader<File>, FrameDecoder>;

/// Zstandard, frame after frame: what is packed on several cores has many.
struct Frames {
    current: Option<Frame>,
}

fn frame(from: BufReader<File>) -> io::Result<Frame> {
    StreamingDecoder::new(from).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
}

impl Read for Frames {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while let Some(current) = &mut self.current {
            let got = current.read(into)?;
            if got > 0 || into.is_empty() {
                return Ok(got);
            }
            let mut rest = self.current.take().expect("it was just read").into_inner();
            if !rest.fill_buf()?.is_empty() {
                self.current = Some(frame(rest)?);
            }
        }
        Ok(0)
    }
}

/// A reader that gives so many bytes at most.
struct Bounded {
    inner: Box<dyn Read>,
    left: u64,
}

impl Read for Bounded {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(into)?;
        self.left = self.left.checked_sub(got as u64).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("it unpacks to more than {MOST_TIMES} times its size, which texts do not; unpack it yourself if you trust it"),
            )
        })?;
        Ok(got)
    }
}
