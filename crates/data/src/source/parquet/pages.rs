//! Packed pages are taken out as they are and unpacked here: within bounds, which the library has none of, and Zstandard without its
//! C code. LZ4 is left to the library.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::sync::Arc;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;

use parquet::basic::Compression;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::reader::{
    ChunkReader, FileReader, Length, RowGroupReader, SerializedFileReader, SerializedPageReader,
};
use parquet::record::reader::RowIter;
use parquet::schema::types::Type;
use ruzstd::decoding::StreamingDecoder;

use crate::source::open::allowed;

/// A file of which no more is read than there is, whatever lengths it gives.
struct Whole {
    file: File,
    size: u64,
}

impl Whole {
    fn at(&self, start: u64) -> Result<File> {
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(start))?;
        Ok(file)
    }
}

impl Length for Whole {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for Whole {
    type T = BufReader<File>;

    fn get_read(&self, start: u64) -> Result<BufReader<File>> {
        Ok(BufReader::new(self.at(start)?))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        if start.checked_add(length as u64).is_none_or(|end| end > self.size) {
            return Err(error("a part lies beyond the end of the file"));
        }
        let mut bytes = vec![0; length];
        self.at(start)?.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }
}

/// A file whose pages may be packed.
pub(super) struct PackedFile {
    inner: SerializedFileReader<Whole>,
    file: Arc<Whole>,
    size: u64,
}

impl PackedFile {
    pub fn new(file: File) -> Result<PackedFile> {
        let size = file.metadata()?.len();
        let whole = |file| Whole { file, size };
        let inner = SerializedFileReader::new(whole(file.try_clone()?))?;
        Ok(PackedFile { inner, file: Arc::new(whole(file)), size })
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl FileReader for PackedFile {
    fn metadata(&self) -> &ParquetMetaData {
        self.inner.metadata()
    }

    fn num_row_groups(&self) -> usize {
        self.inner.num_row_groups()
    }

    fn get_row_group(&self, i: usize) -> Result<Box<dyn RowGroupReader + '_>> {
        let most = allowed(self.size);
        Ok(Box::new(Group { inner: self.inner.get_row_group(i)?, file: self.file.clone(), most }))
    }

    fn get_row_iter(&self, projection: Option<Type>) -> Result<RowIter<'_>> {
        RowIter::from_file(projection, self)
    }
}

struct Group<'f> {
    inner: Box<dyn RowGroupReader + 'f>,
    file: Arc<Whole>,
    most: u64,
}

impl RowGroupReader for Group<'_> {
    fn metadata(&self) -> &RowGroupMetaData {
        self.inner.metadata()
    }

    fn num_columns(&self) -> usize {
        self.inner.num_columns()
    }

    fn get_column_page_reader(&self, i: usize) -> Result<Box<dyn PageReader>> {
        let column = self.metadata().column(i);
        let packing = match column.compression() {
            Compression::ZSTD(_) => Packing::Zstd,
            Compression::SNAPPY => Packing::Snappy,
            Compression::GZIP(_) => Packing::Gzip,
            _ => return self.inner.get_column_page_reader(i),
        };
        let plain = column.clone().into_builder().set_compression(Compression::UNCOMPRESSED).build()?;
        let rows = usize::try_from(self.metadata().num_rows()).map_err(|_| error("a negative number of rows"))?;
        let packed = SerializedPageReader::new(self.file.clone(), &plain, rows, None)?;
        Ok(Box::new(Pages { packed, packing, left: self.most }))
    }

    fn get_column_bloom_filter(&self, i: usize) -> Option<&parquet::bloom_filter::Sbbf> {
        self.inner.get_column_bloom_filter(i)
    }

    fn get_row_iter(&self, projection: Option<Type>) -> Result<RowIter<'_>> {
        RowIter::from_row_group(projection, self)
    }
}

/// How a column's pages are packed.
#[derive(Clone, Copy)]
enum Packing {
    Zstd,
    Snappy,
    Gzip,
}

/// The pages of a column chunk. They may hold `left` more bytes.
struct Pages {
    packed: SerializedPageReader<Whole>,
    packing: Packing,
    left: u64,
}

impl Pages {
    fn unpacked(&mut self, packed: &[u8]) -> Result<Vec<u8>> {
        const FAR: &str = "its pages unpack to far more than its size, which texts do not";
        let broken = |problem: String| error(&format!("a packed page is damaged: {problem}"));
        let mut plain = Vec::new();
        let most = self.left + 1;
        let read = match self.packing {
            Packing::Zstd => {
                let unpack = StreamingDecoder::new(packed).map_err(|problem| broken(problem.to_string()))?;
                unpack.take(most).read_to_end(&mut plain)
            }
            Packing::Gzip => MultiGzDecoder::new(packed).take(most).read_to_end(&mut plain),
            Packing::Snappy => {
                let length = snap::raw::decompress_len(packed).map_err(|problem| broken(problem.to_string()))?;
                if length as u64 >= most {
                    return Err(error(FAR));
                }
                plain =
                    snap::raw::Decoder::new().decompress_vec(packed).map_err(|problem| broken(problem.to_string()))?;
                Ok(plain.len())
            }
        };
        read.map_err(|problem| broken(problem.to_string()))?;
        let left = self.left.checked_sub(plain.len() as u64);
        self.left = left.ok_or_else(|| error(FAR))?;
        Ok(plain)
    }

    fn unpack(&mut self, mut page: Page) -> Result<Page> {
        match &mut page {
            Page::DataPage { buf, .. } | Page::DictionaryPage { buf, .. } => *buf = self.unpacked(buf)?.into(),
            Page::DataPageV2 { buf, def_levels_byte_len, rep_levels_byte_len, is_compressed, .. } if *is_compressed => {
                let levels = *def_levels_byte_len as usize + *rep_levels_byte_len as usize;
                let values = buf.get(levels..).ok_or_else(|| error("a page is shorter than its levels"))?;
                // A page without values may be packed as nothing.
                let values = if values.is_empty() { Vec::new() } else { self.unpacked(values)? };
                *buf = [&buf[..levels], &values].concat().into();
                *is_compressed = false;
            }
            Page::DataPageV2 { .. } => {}
        }
        Ok(page)
    }
}

fn error(problem: &str) -> ParquetError {
    ParquetError::General(problem.to_owned())
}

impl Iterator for Pages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Result<Page>> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.packed.get_next_page()?;
        page.map(|page| self.unpack(page)).transpose()
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.packed.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.packed.skip_next_page()
    }
}
