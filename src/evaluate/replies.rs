//! What a model that sees says of images: an endpoint, whose replies are recorded, or a recording.

use std::collections::HashMap;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::vision::media_type;
use crate::error::{Error, Result};
use crate::prompting::llm::Client;
use crate::prompting::recording::{self, Record, Recorder};

/// Where replies come from. Requests are numbered; what was recorded is not asked again.
pub struct Replies {
    endpoint: Option<(Client, Recorder)>,
    recorded: HashMap<u64, Record>,
}

impl Replies {
    /// An endpoint, recorded in `recording`.
    ///
    /// # Errors
    /// As [`Recorder::open`].
    pub fn endpoint(client: Client, recording: &Path) -> Result<Self> {
        let (recorder, recorded) = Recorder::open(recording)?;
        Ok(Self { endpoint: Some((client, recorder)), recorded })
    }

    /// A recording alone.
    ///
    /// # Errors
    /// As [`recording::read`].
    pub fn replay(recording: &Path) -> Result<Self> {
        Ok(Self { endpoint: None, recorded: recording::read(recording)? })
    }

    /// The reply to request `number`: a text, and images after it.
    ///
    /// # Errors
    /// [`Error::Failed`] where the recording ends, or the endpoint fails; [`Error::Usage`] where the recording has another
    /// text under this number; [`Error::File`] for an image that endpoints do not take.
    pub fn ask(&mut self, number: u64, text: &str, images: &[&Path]) -> Result<String> {
        if let Some(record) = self.recorded.get(&number) {
            if record.prompt.as_ref().is_some_and(|prompt| prompt != text) {
                return Err(Error::Usage(format!(
                    "the recording has another text for request {number}: it is of other references or settings"
                )));
            }
            return Ok(record.reply.clone());
        }
        let Some((client, recorder)) = &self.endpoint else {
            return Err(Error::Failed(format!(
                "the recording has no reply to request {number}; ask a model by --llm, or ask for less"
            )));
        };
        let urls: Vec<String> = images.iter().map(|path| data_url(path)).collect::<Result<_>>()?;
        let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
        let reply = client.complete_about_all(text, &urls, 1)?;
        let record = Record {
            request: Some(number),
            llm_model: Some(client.settings().model.clone()),
            prompt: Some(text.into()),
            reply: reply.text,
            finish_reason: reply.finish_reason,
            input_tokens: Some(reply.usage.input),
            output_tokens: Some(reply.usage.output),
            estimated: reply.usage.estimated,
        };
        recorder.append(&record)?;
        Ok(record.reply)
    }
}

fn data_url(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let kind = media_type(&bytes).ok_or_else(|| Error::file(path, "is not PNG, JPEG or WebP, which endpoints take"))?;
    Ok(format!("data:{kind};base64,{}", STANDARD.encode(&bytes)))
}
