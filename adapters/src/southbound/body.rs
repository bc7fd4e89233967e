//! Reads an answer's body up to a bound, whatever its length says.

use futures::StreamExt as _;

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyProblem {
    /// It is longer than allowed; the rest was not read.
    #[error("the answer has more than {bytes_max} bytes")]
    TooLong {
        /// The bound.
        bytes_max: usize,
    },
    /// It broke off.
    #[error("the answer broke off")]
    BrokeOff(#[source] reqwest::Error),
}

/// The whole body, at most `bytes_max` bytes of it.
pub(crate) async fn read_bounded(answer: reqwest::Response, bytes_max: usize) -> Result<Vec<u8>, BodyProblem> {
    let too_long = || BodyProblem::TooLong { bytes_max };
    let told = answer.content_length().unwrap_or(0);
    if told > bytes_max as u64 {
        return Err(too_long());
    }
    let mut body = Vec::with_capacity(usize::try_from(told).unwrap_or(0));
    let mut pieces = answer.bytes_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(BodyProblem::BrokeOff)?;
        if body.len() + piece.len() > bytes_max {
            return Err(too_long());
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}
