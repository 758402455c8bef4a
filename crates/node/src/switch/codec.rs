//! Cuts the byte stream into OpenFlow messages.

use bytes::BytesMut;
use openflow::{Message, Xid, decode, frame_len};
use tokio_util::codec::Decoder;

/// Bytes to messages. A message that cannot be decoded is told as such and does not end the stream, because the
/// frames around it are sound; only a lost frame does.
#[derive(Debug, Default)]
pub(super) struct Codec;

#[derive(Debug)]
pub(super) enum Frame {
    Message(Message, Xid),
    /// A whole frame that is not OpenFlow 1.5 as known here.
    Undecodable(openflow::DecodeError, Xid),
}

impl Decoder for Codec {
    type Item = Frame;
    type Error = std::io::Error;

    fn decode(&mut self, bytes: &mut BytesMut) -> std::io::Result<Option<Frame>> {
        let length = frame_len(bytes).map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error))?;
        let Some(length) = length.filter(|length| *length <= bytes.len()) else {
            let missing = length.unwrap_or(openflow::HEADER_LEN).saturating_sub(bytes.len());
            bytes.reserve(missing);
            return Ok(None);
        };
        let frame = bytes.split_to(length);
        Ok(Some(match decode(&frame) {
            Ok((message, xid)) => Frame::Message(message, xid),
            Err(error) => Frame::Undecodable(error, u32::from_be_bytes([frame[4], frame[5], frame[6], frame[7]])),
        }))
    }
}
