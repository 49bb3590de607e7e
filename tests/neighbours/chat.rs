//! `selma chat --serve`: the page, and who may ask for it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};

use serde_json::{Value, json};

use crate::server::{Answer, Server};
use crate::{bytes, says};

/// A running server, ended with the test.
struct Chat {
    child: Child,
    port: u16,
    /// What it prints: replies, and the paths of images.
    printed: BufReader<ChildStdout>,
}

impl Drop for Chat {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Chat {
    fn start(dir: &Path, llm: &str) -> Self {
        let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("selma"));
        command.current_dir(dir).env("XDG_CACHE_HOME", dir.join(".cache")).env_remove("OPENAI_API_KEY");
        command.args(["chat", "--model", "shapes", "--steps", "2", "--llm", llm, "--llm-model", "m"]);
        command.args(["--serve", "0", "--out", "dialogue", "--quiet"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut printed = BufReader::new(child.stdout.take().unwrap());
        printed.read_line(&mut line).unwrap();
        let port = line.trim().strip_prefix("http://127.0.0.1:").and_then(|port| port.parse().ok());
        Self { port: port.unwrap_or_else(|| panic!("{line}")), child, printed }
    }

    /// Status, headers and body of the answer to a request with these headers.
    fn ask(&self, line: &str, headers: &[&str], body: &str) -> (u16, String, Vec<u8>) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let length = format!("Content-Length: {}", body.len());
        let head: Vec<&str> =
            [line].iter().chain(headers).copied().chain([&*length, "Connection: close", "", ""]).collect();
        stream.write_all(format!("{}{body}", head.join("\r\n")).as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_lowercase(), answer[end + 4..].to_vec())
    }

    fn host(&self) -> String {
        format!("Host: 127.0.0.1:{}", self.port)
    }

    fn get(&self, path: &str) -> (u16, String, Vec<u8>) {
        self.ask(&format!("GET {path} HTTP/1.1"), &[&self.host()], "")
    }

    fn say(&self, text: &str) -> Value {
        let headers = [self.host(), "Content-Type: application/json".into()];
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        let (status, _, body) = self.ask("POST /say HTTP/1.1", &headers, &json!({"text": text}).to_string());
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap()
    }
}

fn reply(text: &str) -> Answer {
    Answer::Json(200, json!({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}))
}

#[test]
fn a_dialogue_on_a_page_of_this_machine() {
    let dir = tempfile::tempdir().unwrap();
    let llm = Server::start(|number, _| match number {
        0 => reply("Here: <image id=\"1\">a red circle</image>"),
        1 => Answer::Json(400, json!({"error": {"message": "out of order"}})),
        _ => reply("<variation>1</variation>"),
    });
    let mut chat = Chat::start(dir.path(), &llm.url);
    let (status, head, page) = chat.get("/");
    let page = String::from_utf8(page).unwrap();
    assert_eq!(status, 200);
    for part in ["default-src 'none'", "frame-ancestors 'none'", "x-content-type-options: nosniff", "img-src 'self'"] {
        assert!(head.contains(part), "{part} in {head}");
    }
    assert!(!page.contains("http:") && !page.contains("https:") && !page.contains("NONCE"), "nothing from elsewhere");
    let nonce = page.split("script nonce=\"").nth(1).unwrap().split('"').next().unwrap();
    assert!(head.contains(&format!("script-src 'nonce-{nonce}'")));
    assert_ne!(chat.get("/").2, page.into_bytes(), "a nonce is used once");

    let said = chat.say("a circle, please");
    let roles: Vec<&str> = said["events"].as_array().unwrap().iter().map(|e| e["role"].as_str().unwrap()).collect();
    assert_eq!((roles, &said["error"]), (vec!["user", "assistant", "image"], &Value::Null));
    let file = said["events"][2]["file"].as_str().unwrap();
    let (status, head, image) = chat.get(&format!("/image/{file}"));
    assert!(status == 200 && head.contains("image/png"));
    assert_eq!(image, bytes(&dir.path().join("dialogue").join(file)));
    let mut printed = [String::new(), String::new()];
    for line in &mut printed {
        chat.printed.read_line(line).unwrap();
    }
    assert_eq!(printed.map(|line| line.trim().to_owned()), ["Here:", "image 1: dialogue/1.png"]);
    // What fails is shown, and the dialogue goes on.
    let failed = chat.say("another");
    assert!(failed["error"].as_str().unwrap().contains("out of order"), "{failed}");
    assert_eq!(chat.say("again")["events"][2]["file"], "2.png");
    let (_, _, events) = chat.get("/events");
    assert_eq!(serde_json::from_slice::<Value>(&events).unwrap().as_array().unwrap().len(), 7);
    for path in
        ["/image/dialogue.jsonl", "/image/../dialogue.jsonl", "/image/%2e%2e/dialogue.jsonl", "/image/", "/other"]
    {
        assert_eq!(chat.get(path).0, 404, "{path}");
    }
}

#[test]
fn a_page_from_elsewhere_is_not_answered() {
    let dir = tempfile::tempdir().unwrap();
    let llm = Server::start(|_, _| reply("hello"));
    let chat = Chat::start(dir.path(), &llm.url);
    let port = chat.port;
    let (own, named) = (chat.host(), format!("Host: localhost:{port}"));
    assert_eq!(chat.ask("GET / HTTP/1.1", &[&named], "").0, 200);
    // A name that was made to point here, another port, no name.
    for host in [&[&*format!("Host: evil.example:{port}")][..], &["Host: 127.0.0.1"], &["Host: 127.0.0.1:1"], &[]] {
        let (status, _, body) = chat.ask("GET /events HTTP/1.1", host, "");
        assert_eq!(status, 403, "{host:?}");
        assert!(String::from_utf8(body).unwrap().contains(&format!("http://127.0.0.1:{port} only")));
    }
    let text = json!({"text": "draw"}).to_string();
    let json_type = "Content-Type: application/json";
    for more in [
        &["Content-Type: text/plain"][..],
        &[],
        &[json_type, "Origin: http://evil.example"],
        &[json_type, "Origin: null"],
        &[json_type, "Sec-Fetch-Site: cross-site"],
    ] {
        let headers: Vec<&str> = [&*own].iter().chain(more).copied().collect();
        assert_eq!(chat.ask("POST /say HTTP/1.1", &headers, &text).0, 403, "{more:?}");
    }
    let origin = format!("Origin: http://127.0.0.1:{port}");
    let fine = [&*own, json_type, &origin, "Sec-Fetch-Site: same-origin"];
    assert_eq!(chat.ask("POST /say HTTP/1.1", &fine, &text).0, 200);
    assert_eq!(chat.ask("POST /say HTTP/1.1", &fine, "{\"text\": \" \"}").0, 400);
    assert_eq!(chat.ask("POST /say HTTP/1.1", &fine, &"x".repeat(70_000)).0, 413);
    assert_eq!(chat.ask("DELETE / HTTP/1.1", &fine, "").0, 405);
    assert_eq!(llm.seen().len(), 1, "what was refused reached nobody");
    // It listens on this machine alone: 127.0.0.1 as the kernel writes it.
    let listening = std::fs::read_to_string("/proc/net/tcp").unwrap();
    assert!(listening.contains(&format!("0100007F:{port:04X} 00000000:0000 0A")), "{listening}");
    let taken = ["chat", "--model", "shapes", "--llm", &llm.url, "--llm-model", "m", "--out", "other", "--serve"];
    says(dir.path(), &[&taken[..], &[&port.to_string()]].concat(), 1, &[&port.to_string(), "--serve PORT"]);
}
