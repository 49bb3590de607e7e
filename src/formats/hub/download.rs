//! The hub's HTTP interface: what files a model has, and their bytes.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::cache::Cache;
use crate::error::{Error, Result};
use crate::formats::digest;

/// Tries of one file that bring nothing new.
const TRIES: usize = 5;

/// One model at its endpoint.
pub struct Remote<'a> {
    endpoint: &'a str,
    token: Option<&'a str>,
    id: &'a str,
    agent: ureq::Agent,
}

/// The files of a commit.
pub struct Listing {
    pub commit: String,
    pub files: Vec<RemoteFile>,
}

/// A file there.
pub struct RemoteFile {
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// The name of its blob: the SHA-256 of a large file, git's hash of a small one.
    pub hash: String,
    /// Whether `hash` is a SHA-256.
    pub is_large: bool,
}

impl Listing {
    pub fn find(&self, name: &str) -> Option<&RemoteFile> {
        self.files.iter().find(|file| file.name == name)
    }

    /// The files of a folder.
    pub fn below<'a>(&'a self, folder: &'a str) -> impl Iterator<Item = &'a RemoteFile> {
        let inside = move |file: &&RemoteFile| {
            let rest = file.name.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'));
            rest.is_some_and(|rest| !rest.contains('/'))
        };
        self.files.iter().filter(inside)
    }
}

impl<'a> Remote<'a> {
    pub fn new(endpoint: &'a str, token: Option<&'a str>, id: &'a str) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            // A body that takes longer is gone on with by a new request.
            .timeout_recv_body(Some(Duration::from_secs(600)))
            .http_status_as_error(false)
            .user_agent(concat!("selma/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { endpoint: endpoint.trim_end_matches('/'), token, id, agent: config.new_agent() }
    }

    /// What a revision holds, such as `main` or `refs/pr/7`.
    ///
    /// # Errors
    /// [`Error::Failed`] with the endpoint's reason.
    pub fn listing(&self, revision: &str) -> Result<Listing> {
        let revision = revision.replace('/', "%2F");
        let address = format!("{}/api/models/{}/revision/{revision}?blobs=true", self.endpoint, self.id);
        let mut response = self.get(&address, 0).map_err(|why| self.failed(&why))?;
        if response.status() != 200 {
            return Err(self.refused(response.status().as_u16()));
        }
        let text = response.body_mut().with_config().limit(64 << 20).read_to_string();
        let text = text.map_err(|e| self.failed(&e.to_string()))?;
        let odd = || self.failed("the list of files is not of the hub's protocol");
        let json: Value = serde_json::from_str(&text).map_err(|_| odd())?;
        let commit = json["sha"].as_str().filter(|sha| is_name(sha)).ok_or_else(odd)?;
        let siblings = json["siblings"].as_array().ok_or_else(odd)?;
        let files: Option<Vec<_>> = siblings.iter().map(remote_file).collect();
        Ok(Listing { commit: commit.into(), files: files.ok_or_else(odd)? })
    }

    /// Brings a file into the cache, if it is not there, and returns where it lies in the snapshot. `progress` is told the
    /// bytes so far.
    ///
    /// # Errors
    /// [`Error::Failed`] naming the file when the last try brought nothing, or its hash is wrong; [`Error::Io`].
    pub fn fetch(
        &self,
        listing: &Listing,
        file: &RemoteFile,
        cache: &Cache,
        progress: &mut dyn FnMut(u64),
    ) -> Result<PathBuf> {
        let blob = cache.blob(&file.hash)?;
        if !blob.is_file() {
            let part = blob.with_extension("incomplete");
            let io = |e| Error::io(&part, e);
            let mut out = OpenOptions::new().create(true).append(true).open(&part).map_err(io)?;
            // Another process may be at the same file: whoever waits here finds it done.
            out.lock().map_err(io)?;
            if !blob.is_file() {
                self.download(&listing.commit, file, &mut out, &part, progress)?;
                std::fs::rename(&part, &blob).map_err(|e| Error::io(&blob, e))?;
            }
        }
        progress(file.size);
        cache.link(&listing.commit, &file.name, &file.hash)
    }

    /// Appends to `out`, the file at `part`, until it has the file's size and hash.
    fn download(
        &self,
        commit: &str,
        file: &RemoteFile,
        out: &mut File,
        part: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let io = |e| Error::io(part, e);
        let address = format!("{}/{}/resolve/{commit}/{}", self.endpoint, self.id, file.name);
        let mut fruitless = 0;
        loop {
            let before = out.metadata().map_err(io)?.len();
            if before == file.size {
                break;
            }
            if before > file.size {
                out.set_len(0).map_err(io)?;
                continue;
            }
            let why = match self.get(&address, before) {
                Err(why) => why,
                Ok(response) => match response.status().as_u16() {
                    200 | 206 => receive(response, out, file.size, progress).map_err(io)?,
                    status @ (408 | 425 | 429 | 500..=599) => format!("status {status}"),
                    status => return Err(self.refused(status)),
                },
            };
            let after = out.metadata().map_err(io)?.len();
            fruitless = if after > before { 0 } else { fruitless + 1 };
            if fruitless == TRIES {
                let message = format!("{}: {why}; what has arrived is kept, and the same command goes on", file.name);
                return Err(self.failed(&message));
            }
            if after < file.size {
                std::thread::sleep(Duration::from_millis(200 << fruitless));
            }
        }
        out.sync_all().map_err(io)?;
        if file.is_large && digest::file(part)? != file.hash {
            out.set_len(0).map_err(io)?;
            return Err(self.failed(&format!("{} arrived with another hash; try again", file.name)));
        }
        Ok(())
    }

    fn get(&self, address: &str, from: u64) -> Result<ureq::http::Response<ureq::Body>, String> {
        let mut request = self.agent.get(address);
        if let Some(token) = self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        request.call().map_err(|error| error.to_string())
    }

    fn refused(&self, status: u16) -> Error {
        let why = match (status, self.token) {
            (401 | 403 | 404, None) => {
                "there is no such public model; check the name, and for a private or gated one set HF_TOKEN".into()
            }
            (401 | 403, Some(_)) => {
                "HF_TOKEN does not give access to it; a gated model's terms are accepted on its page".into()
            }
            (404, Some(_)) => "there is no such model".into(),
            _ => format!("status {status}"),
        };
        self.failed(&why)
    }

    fn failed(&self, why: &str) -> Error {
        Error::Failed(format!("{} at {}: {why}", self.id, self.endpoint))
    }
}

/// Writes the body behind what is there, or in its place if the endpoint does not know ranges, and says how it ended.
fn receive(
    mut response: ureq::http::Response<ureq::Body>,
    out: &mut File,
    size: u64,
    progress: &mut dyn FnMut(u64),
) -> io::Result<String> {
    if response.status() == 200 {
        out.set_len(0)?;
    }
    let mut have = out.metadata()?.len();
    let mut body = response.body_mut().as_reader();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match body.read(&mut buffer) {
            Ok(0) => return Ok(format!("the connection ended after {have} of {size} bytes")),
            Ok(read) => {
                out.write_all(&buffer[..read])?;
                have += read as u64;
                progress(have.min(size));
            }
            Err(error) => return Ok(error.to_string()),
        }
    }
}

fn remote_file(json: &Value) -> Option<RemoteFile> {
    let large = json["lfs"]["sha256"].as_str();
    let hash = large.or(json["blobId"].as_str()).filter(|hash| is_name(hash))?;
    let name = json["rfilename"].as_str()?;
    // A name must not lead out of the snapshot.
    let inside = name.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    inside.then(|| RemoteFile {
        name: name.into(),
        size: json["lfs"]["size"].as_u64().or(json["size"].as_u64()).unwrap_or(0),
        hash: hash.into(),
        is_large: large.is_some(),
    })
}

/// A hash can be a file's name.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_hexdigit())
}
