//! Proofs in a process of their own: `selma selfcheck --prove`, which gets a job on standard input and answers line by line.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::proof::Proof;
use crate::device::gpu::Gpu;
use crate::device::gpu::choice::{Case, Choice};
use crate::error::{Error, Result};

/// What a stage of a proof may take: a driver that compiles the kernels first needs a minute.
pub const TIME_LIMIT: Duration = Duration::from_secs(120);
const REFERENCE: &str = "the reference";

/// What came of a candidate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It may be used.
    Proved,
    /// It may be used, and takes so many seconds; the reference took so many beside it.
    Timed { seconds: f64, reference: f64 },
    /// It may not be used. Why.
    Refused(String),
    /// Nobody knows, and it can be tried again. Why.
    Unable(String),
}

#[derive(Serialize, Deserialize)]
struct Job {
    case: Case,
    candidates: Vec<Choice>,
    timed: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Message {
    /// What comes now.
    Stage(String),
    /// Of the next candidate.
    Verdict(Verdict),
}

/// Does the job on standard input. A candidate that is refused is the last one: it may have left the device in disorder.
///
/// # Errors
/// [`Error::Usage`] where there is no job; [`Error::Failed`] where nobody reads the answers.
pub fn serve(gpu: &Gpu) -> Result<()> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(|e| Error::Failed(format!("standard input: {e}")))?;
    let job: Job = serde_json::from_str(&line)
        .map_err(|e| Error::Usage(format!("--prove: expected a job on standard input: {e}")))?;
    let Job { case, candidates, timed } = job;
    if !case.is_sound() || !candidates.iter().all(|&candidate| case.permits(candidate)) {
        return Err(Error::Usage(format!("--prove: {case}: there is no such kernel")));
    }
    say(&Message::Stage(REFERENCE.into()))?;
    let mut proof = match Proof::new(gpu, &case) {
        Ok(Ok(proof)) => proof,
        Ok(Err(why)) => return say(&Message::Verdict(Verdict::Unable(format!("{REFERENCE} {why}")))),
        Err(error) => return say(&Message::Verdict(Verdict::Unable(format!("{REFERENCE}: {error}")))),
    };
    for candidate in candidates {
        let verdict = match examine(&mut proof, candidate, timed) {
            Ok(verdict) => verdict,
            Err(error @ Error::OutOfMemory(_)) => Verdict::Unable(error.to_string()),
            Err(error) => Verdict::Refused(error.to_string()),
        };
        say(&Message::Verdict(verdict.clone()))?;
        if matches!(verdict, Verdict::Refused(_) | Verdict::Unable(_)) {
            break;
        }
    }
    Ok(())
}

fn examine(proof: &mut Proof<'_>, candidate: Choice, timed: bool) -> Result<Verdict> {
    if let Some(why) = proof.objection(candidate, |stage| say(&Message::Stage(stage.into())))? {
        return Ok(Verdict::Refused(why));
    }
    if !timed {
        return Ok(Verdict::Proved);
    }
    say(&Message::Stage("timing".into()))?;
    let [reference, seconds] = proof.seconds(candidate)?;
    Ok(Verdict::Timed { seconds, reference })
}

fn say(message: &Message) -> Result<()> {
    let text = serde_json::to_string(message).map_err(|e| Error::Failed(e.to_string()))?;
    let mut out = std::io::stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    written.map_err(|e| Error::Failed(format!("standard output: {e}")))
}

/// Has candidates prove themselves.
pub struct Prover {
    /// This program.
    program: PathBuf,
    /// As `--device` names it.
    device: String,
    limit: Duration,
}

impl Prover {
    /// `program` is selma, `device` what `--device` calls it; a stage that takes longer than `limit` hangs.
    pub fn new(program: PathBuf, device: &str, limit: Duration) -> Self {
        Self { program, device: device.into(), limit }
    }

    /// A verdict for each candidate, in their order; `timed` says whether those that prove themselves are timed too.
    pub fn prove(&self, case: &Case, candidates: &[Choice], timed: bool) -> Vec<Verdict> {
        let mut verdicts: Vec<Verdict> = Vec::new();
        while verdicts.len() < candidates.len() {
            let job = Job { case: case.clone(), candidates: candidates[verdicts.len()..].to_vec(), timed };
            verdicts.extend(self.work(&job));
            if let Some(Verdict::Unable(why)) = verdicts.last().cloned() {
                verdicts.resize(candidates.len(), Verdict::Unable(why));
            }
        }
        verdicts
    }

    /// At least one verdict.
    fn work(&self, job: &Job) -> Vec<Verdict> {
        let unable = |e: std::io::Error| vec![Verdict::Unable(format!("{}: {e}", self.program.display()))];
        let mut child = match self.start() {
            Ok(child) => child,
            Err(e) => return unable(e),
        };
        let text = serde_json::to_string(job).unwrap_or_default();
        // A child that does not take its job tells why by its end.
        if let Some(mut to_child) = child.stdin.take() {
            let _ = writeln!(to_child, "{text}");
        }
        let messages = messages(&mut child);
        let (mut verdicts, mut stage) = (Vec::new(), String::from(REFERENCE));
        loop {
            match messages.recv_timeout(self.limit) {
                Ok(Message::Stage(next)) => stage = next,
                Ok(Message::Verdict(verdict)) => {
                    verdicts.push(verdict);
                    // Where the child dies before it begins the next candidate.
                    stage = REFERENCE.into();
                }
                Err(RecvTimeoutError::Timeout) => {
                    let _ = child.kill();
                    let _ = child.wait();
                    let seconds = self.limit.as_secs_f64();
                    verdicts.push(lost(&stage, &format!("did not end within {seconds} s and was stopped")));
                    return verdicts;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        // Where it says what nobody understands it need not end by itself.
        let _ = child.kill();
        let status = match child.wait() {
            Ok(status) => status,
            Err(e) => return unable(e),
        };
        let complete = verdicts.len() == job.candidates.len();
        let told = matches!(verdicts.last(), Some(Verdict::Refused(_) | Verdict::Unable(_)));
        if !complete && !told {
            verdicts.push(lost(&stage, &format!("its process ended: {}", describe(status))));
        }
        verdicts
    }

    fn start(&self) -> std::io::Result<Child> {
        let mut command = Command::new(&self.program);
        command.args(["selfcheck", "--prove", "--quiet", "--kernels", "model", "--device"]).arg(&self.device);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()
    }
}

/// What the child says, until it ends.
fn messages(child: &mut Child) -> Receiver<Message> {
    let (to, messages) = channel();
    if let Some(out) = child.stdout.take() {
        // Ends with the child, or with who listens.
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(std::io::Result::ok) {
                let Ok(message) = serde_json::from_str(&line) else { break };
                if to.send(message).is_err() {
                    break;
                }
            }
        });
    }
    messages
}

/// Of a candidate whose process told nothing: a reference that fails is no fault of the candidate.
fn lost(stage: &str, why: &str) -> Verdict {
    let sentence = format!("{stage}: {why}");
    if stage == REFERENCE { Verdict::Unable(sentence) } else { Verdict::Refused(sentence) }
}

fn describe(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return format!("signal {signal}");
    }
    status.code().map_or_else(|| "nobody knows why".into(), |code| format!("exit status {code}"))
}
