//! A server on 127.0.0.1 that speaks HTTP as badly as a test wants.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

/// What the client sent.
#[derive(Clone, Debug)]
pub struct Request {
    pub path: String,
    /// The lines between the first and the empty one.
    pub headers: Vec<String>,
    pub body: Value,
}

impl Request {
    /// The text that the model is asked to answer, in either protocol.
    pub fn prompt(&self) -> &str {
        let chat = &self.body["messages"][0]["content"];
        chat.as_str().or(self.body["prompt"].as_str()).expect("a request has a text")
    }
}

pub enum Answer {
    Json(u16, Value),
    /// Status, one more header line, body.
    With(u16, String, Value),
    /// These bytes, and the end of the connection.
    Raw(Vec<u8>),
    /// The connection stays open and silent.
    Stall,
    /// A status line, and then a byte of a header now and then, for ever.
    Trickle,
}

pub struct Server {
    pub url: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// `answer` gets the number of the request, from 0.
    pub fn start(answer: impl Fn(usize, &Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (answer, log) = (Arc::new(answer), seen.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (answer, log) = (answer.clone(), log.clone());
                std::thread::spawn(move || {
                    let request = receive(&stream);
                    let number = {
                        let mut log = log.lock().unwrap();
                        log.push(request.clone());
                        log.len() - 1
                    };
                    send(stream, answer(number, &request));
                });
            }
        });
        Self { url, seen }
    }

    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }
}

fn receive(stream: &TcpStream) -> Request {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let first = lines.remove(0);
    let length = lines.iter().find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).unwrap();
    Request {
        path: first.split(' ').nth(1).unwrap().to_owned(),
        headers: lines,
        body: serde_json::from_slice(&body).unwrap_or_default(),
    }
}

/// The client may have gone, which is no error here.
fn send(mut stream: TcpStream, answer: Answer) {
    let full = |status: u16, header: &str, body: Value| {
        let body = body.to_string();
        let head = format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nConnection: close\r\n{header}");
        format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())
    };
    match answer {
        Answer::Json(status, body) => drop(stream.write_all(full(status, "", body).as_bytes())),
        Answer::With(status, header, body) => {
            drop(stream.write_all(full(status, &format!("{header}\r\n"), body).as_bytes()));
        }
        Answer::Raw(bytes) => drop(stream.write_all(&bytes)),
        Answer::Stall => std::thread::sleep(Duration::from_secs(60)),
        Answer::Trickle => {
            drop(stream.write_all(b"HTTP/1.1 200 OK\r\nX-Slow: "));
            while stream.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// A chat reply.
pub fn chat(text: &str, finish_reason: &str) -> Answer {
    Answer::Json(
        200,
        json!({"model": "writer-1", "choices": [{"message": {"content": text}, "finish_reason": finish_reason}],
               "usage": {"prompt_tokens": 300, "completion_tokens": 200}}),
    )
}

/// An error in the form of OpenAI's.
pub fn failure(status: u16, message: &str, code: &str) -> Answer {
    Answer::Json(status, json!({"error": {"message": message, "code": code}}))
}
