//! What the tonic programs share: the numbered service (see ../go/internal/numbers).

use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::Status;

pub const SERVICE: &str = "peers.Numbers";
pub const PARTS: usize = 3;

/// A message of call n: n bytes that begin with its number.
pub fn message(n: usize) -> Vec<u8> {
    let mut made = format!("{n}:").into_bytes();
    made.resize(n.max(made.len()), b'.');
    made
}

/// The number of a message.
pub fn number(message: &[u8]) -> Option<usize> {
    let end = message.iter().position(|&byte| byte == b':')?;
    std::str::from_utf8(&message[..end]).ok()?.parse().ok()
}

/// The code that the method Fail answers call n with.
pub fn failing_code(n: usize) -> i32 {
    (1 + n % 16) as i32
}

/// Passes bytes through: the service has no schema.
#[derive(Clone, Copy, Default)]
pub struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Bytes;
    type Decoder = Bytes;

    fn encoder(&mut self) -> Bytes {
        Bytes
    }

    fn decoder(&mut self) -> Bytes {
        Bytes
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes_put(buffer, &item);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

fn bytes_put(buffer: &mut EncodeBuf<'_>, item: &[u8]) {
    bytes::BufMut::put_slice(buffer, item);
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let length = bytes::Buf::remaining(buffer);
        let mut item = vec![0; length];
        bytes::Buf::copy_to_slice(buffer, &mut item);
        Ok(Some(item))
    }
}
