//! A stream's messages as gRPC puts them into the body of an answer: five bytes of header, and the message.
//!
//! Each is encoded when the connection has room for it, into a buffer of its own, which goes when it is sent. tonic's encoder keeps its
//! buffer for as long as the stream lives, at the size of the largest message that there was: with thousands of nodes, most of the memory
//! of a server.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use http_body::{Body, Frame};
use prost::Message;
use tokio::sync::mpsc;
use tonic::Status;
use tonic::codegen::http::HeaderMap;

use crate::MESSAGE_BYTES_MAX;
use crate::wire::ServerMessage;

/// Whether it is compressed, and its length.
const HEADER_BYTES: usize = 5;

pub struct Frames {
    messages: mpsc::Receiver<Result<ServerMessage, Status>>,
    is_over: bool,
}

impl Frames {
    pub fn of(messages: mpsc::Receiver<Result<ServerMessage, Status>>) -> Frames {
        Frames { messages, is_over: false }
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let message = ready!(self.messages.poll_recv(context)).unwrap_or_else(|| Err(Status::ok("")));
        let frame = message.and_then(|message| framed(&message)).map_or_else(
            |status| {
                self.is_over = true;
                Frame::trailers(trailers(&status))
            },
            Frame::data,
        );
        Poll::Ready(Some(Ok(frame)))
    }
}

/// The message with its header.
fn framed(message: &ServerMessage) -> Result<Bytes, Status> {
    let length = message.encoded_len();
    let told = u32::try_from(length).ok().filter(|_| length <= MESSAGE_BYTES_MAX);
    let told = told.ok_or_else(|| Status::out_of_range(format!("a message of {length} bytes is larger than {MESSAGE_BYTES_MAX}")))?;
    let mut bytes = BytesMut::with_capacity(HEADER_BYTES + length);
    bytes.put_u8(0);
    bytes.put_u32(told);
    message.encode(&mut bytes).expect("the buffer grows as it has to");
    Ok(bytes.freeze())
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    // A message that cannot be in a header leaves the code.
    if status.add_header(&mut trailers).is_err() {
        trailers.insert(Status::GRPC_STATUS, i32::from(status.code()).into());
    }
    trailers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Heartbeat, SnapshotChunk, server_message};
    use http_body_util::BodyExt;

    async fn frame(frames: &mut Frames) -> Frame<Bytes> {
        frames.frame().await.expect("not the end").unwrap()
    }

    #[tokio::test]
    async fn a_message_is_five_bytes_of_header_and_itself_and_leaves_nothing_behind() {
        let (messages, inbox) = mpsc::channel(2);
        let mut frames = Frames::of(inbox);
        let objects = vec![Bytes::from(vec![7; 300])];
        for body in
            [server_message::Body::SnapshotChunk(SnapshotChunk { objects }), server_message::Body::Heartbeat(Heartbeat { revision: 9 })]
        {
            let message = ServerMessage::from(body);
            messages.send(Ok(message.clone())).await.unwrap();
            let bytes = frame(&mut frames).await.into_data().unwrap();
            assert_eq!(bytes[..HEADER_BYTES], [&[0][..], &(message.encoded_len() as u32).to_be_bytes()].concat());
            assert_eq!(ServerMessage::decode(&bytes[HEADER_BYTES..]), Ok(message));
            assert!(bytes.is_unique(), "the buffer is nobody else's");
        }
    }

    #[tokio::test]
    async fn the_last_word_is_a_status() {
        for (sent, code) in [(None, "0"), (Some(Err(Status::unavailable("later"))), "14")] {
            let (messages, inbox) = mpsc::channel(1);
            let mut frames = Frames::of(inbox);
            if let Some(sent) = sent {
                messages.send(sent).await.unwrap();
            }
            drop(messages);
            let trailers = frame(&mut frames).await.into_trailers().unwrap();
            assert_eq!(trailers["grpc-status"], code);
            assert!(frames.frame().await.is_none());
        }
    }

    #[tokio::test]
    async fn a_message_that_no_node_would_take_ends_the_stream() {
        let (messages, inbox) = mpsc::channel(1);
        let objects = vec![Bytes::from(vec![0; MESSAGE_BYTES_MAX])];
        messages.send(Ok(server_message::Body::SnapshotChunk(SnapshotChunk { objects }).into())).await.unwrap();
        let trailers = frame(&mut Frames::of(inbox)).await.into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "11");
    }
}
