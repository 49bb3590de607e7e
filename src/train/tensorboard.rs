//! TensorBoard event files with scalars, images and texts: TFRecord framing around protobuf messages that are few enough to write by hand.
//!
//! Source: tensorflow/core/lib/io/record_writer.cc (framing), tensorflow/core/util/event.proto,
//! tensorflow/core/framework/summary.proto and tensor.proto (field numbers).

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};

/// An open event file.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Starts a new event file in `dir`. A resumed run passes the step it goes on from: TensorBoard then forgets what
    /// older files say about later steps.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder or the file cannot be written.
    pub fn create(dir: &Path, resumed_at: Option<u64>) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
        // TensorBoard orders files by name. A second run within the second gets the next number.
        let now = seconds() as u64;
        let mut attempt = 0;
        let (path, file) = loop {
            let path = dir.join(format!("events.out.tfevents.{now:010}.selma.{attempt}"));
            match File::create_new(&path) {
                Ok(file) => break (path, file),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => attempt += 1,
                Err(e) => return Err(Error::io(path, e)),
            }
        };
        let mut events = Self { path, file };
        events.write(&event(0, |e| put_bytes(e, 3, b"brain.Event:2")))?;
        if let Some(step) = resumed_at {
            // session_log { status: START } purges this step and later ones.
            events.write(&event(step + 1, |e| put_bytes(e, 7, &[0x08, 0x01])))?;
        }
        Ok(events)
    }

    /// Appends one event with `values`, for example `("train/loss", 0.1)`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> Result<()> {
        let simple = |(tag, value): &(&str, f64)| {
            named(tag, |entry| {
                entry.push(2 << 3 | 5); // simple_value, fixed 32 bits
                entry.extend((*value as f32).to_le_bytes());
            })
        };
        self.summary(step, &values.iter().map(simple).collect::<Vec<_>>())
    }

    /// Appends one event with an image of `(height, width)`, a whole PNG file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn image(&mut self, step: u64, tag: &str, (height, width): (usize, usize), png: &[u8]) -> Result<()> {
        let value = named(tag, |entry| {
            let mut image = Vec::new();
            put_number(&mut image, 1, height as u64);
            put_number(&mut image, 2, width as u64);
            put_number(&mut image, 3, 3); // colorspace: RGB
            put_bytes(&mut image, 4, png);
            put_bytes(entry, 4, &image);
        });
        self.summary(step, &[value])
    }

    /// Appends one event with a text, which is shown as it is: TensorBoard takes texts for Markdown, so it goes there as code.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn text(&mut self, step: u64, tag: &str, text: &str) -> Result<()> {
        let lines: Vec<String> = text.lines().map(|line| format!("    {line}")).collect();
        let value = named(tag, |entry| {
            let mut tensor = Vec::new();
            put_number(&mut tensor, 1, 7); // dtype: DT_STRING
            put_bytes(&mut tensor, 2, &[2 << 3 | 2, 2, 1 << 3, 1]); // tensor_shape: one dimension of size 1
            put_bytes(&mut tensor, 8, lines.join("\n").as_bytes());
            put_bytes(entry, 8, &tensor);
            let (mut plugin, mut metadata) = (Vec::new(), Vec::new());
            put_bytes(&mut plugin, 1, b"text");
            put_bytes(&mut metadata, 1, &plugin);
            put_bytes(entry, 9, &metadata);
        });
        self.summary(step, &[value])
    }

    fn summary(&mut self, step: u64, values: &[Vec<u8>]) -> Result<()> {
        let message = event(step, |e| {
            let mut summary = Vec::new();
            values.iter().for_each(|value| put_bytes(&mut summary, 1, value));
            put_bytes(e, 5, &summary);
        });
        self.write(&message)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn write(&mut self, message: &[u8]) -> Result<()> {
        self.file.write_all(&framed(message)).map_err(|e| Error::io(&self.path, e))
    }
}

/// A TFRecord: length, masked CRC of the length, content, masked CRC of the content.
fn framed(content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(content.len() + 16);
    record.extend(length);
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(content);
    record.extend(masked_crc(content).to_le_bytes());
    record
}

/// CRC-32C, rotated and shifted so that a CRC of data with CRCs inside is not special.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// An `Event` of `step` at the present time, with one more field written by `what`.
fn event(step: u64, what: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut message = vec![1 << 3 | 1]; // wall_time, fixed 64 bits
    message.extend(seconds().to_le_bytes());
    put_number(&mut message, 2, step);
    what(&mut message);
    message
}

/// A `Summary.Value` called `tag`, with one more field written by `what`.
fn named(tag: &str, what: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut value = Vec::new();
    put_bytes(&mut value, 1, tag.as_bytes());
    what(&mut value);
    value
}

/// A varint field.
fn put_number(to: &mut Vec<u8>, field: u8, value: u64) {
    to.push(field << 3);
    put_varint(to, value);
}

/// A length-delimited field: a string or a message.
fn put_bytes(to: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    to.push(field << 3 | 2);
    put_varint(to, bytes.len() as u64);
    to.extend(bytes);
}

fn put_varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

fn seconds() -> f64 {
    // A clock before 1970 only spoils the time axis.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}
