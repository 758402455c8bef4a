//! What an OpenFlow switch sends.

use openflow::{Message, Reassembly, decode, frame_len};

/// A stream of messages: cut, decoded, put together and printed. What was understood is written as it was read.
pub fn stream(bytes: &[u8]) {
    let mut rest = bytes;
    let mut parts = Reassembly::default();
    while let Ok(Some(length)) = frame_len(rest) {
        let Some((frame, after)) = rest.split_at_checked(length) else { break };
        rest = after;
        let Ok((message, xid)) = decode(frame) else { continue };
        round_trip(&message, xid);
        match message {
            Message::MultipartReply(part) => {
                let _ = parts.add(part);
            }
            Message::Error(error) => drop(error.to_string()),
            _ => {}
        }
    }
    // A stream that is cut anywhere is an error and no more.
    let _ = decode(rest);
}

fn round_trip(message: &Message, xid: u32) {
    // Reserved bits and paddings are not kept, so the first reading may be shorter or longer than the second, never different.
    let Ok(written) = message.to_bytes(xid) else { return };
    let (again, same_xid) = decode(&written).unwrap_or_else(|error| panic!("{error}: {message:?} is written as what cannot be read"));
    assert_eq!((&again, same_xid), (message, xid), "a message is not read as it was written");
}
