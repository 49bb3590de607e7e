//! The dialogue as a page in the browser. The server listens on this machine alone, and answers only who calls it by its own
//! name: a page from elsewhere whose name was made to point here (DNS rebinding) says another one.

use std::hash::{BuildHasher, RandomState};
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tiny_http::{Header, Method, Request, Response, Server};

use crate::chat::session::{Event, Outcome, Session};
use crate::cli::Common;
use crate::cli::interrupt::Interrupt;
use crate::error::{Error, Result};

/// One page: no script, style or font from elsewhere. `NONCE` is replaced at each call.
const PAGE: &str = include_str!("page.html");
/// What a message may have, in bytes.
const LONGEST: u64 = 64 << 10;

/// What is sent back.
struct Answer {
    status: u16,
    kind: &'static str,
    body: Vec<u8>,
    nonce: Option<String>,
}

#[derive(Deserialize)]
struct Said {
    text: String,
}

/// Serves the dialogue in `out` on `port` of 127.0.0.1 until Ctrl-C. `answer` asks the language model and does what it says.
///
/// # Errors
/// [`Error::Failed`] where the port is taken.
pub fn serve(
    port: u16,
    out: &Path,
    session: &mut Session,
    answer: &dyn Fn(&mut Session) -> Result<Outcome>,
    common: &Common,
) -> Result<()> {
    let cannot = |e: &dyn std::fmt::Display| {
        Error::Failed(format!("cannot listen on port {port} of this machine: {e}; choose another by --serve PORT"))
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|e| cannot(&e))?;
    let port = listener.local_addr().map_err(|e| cannot(&e))?.port();
    let server = Server::from_listener(listener, None).map_err(|e| cannot(&e))?;
    let interrupt = Interrupt::listen(common)?;
    outln!("http://127.0.0.1:{port}");
    let mut site = Site { port, out, session, answer, pages: 0 };
    while !interrupt.asked() {
        // So that Ctrl-C is seen.
        let next = server.recv_timeout(Duration::from_millis(200)).map_err(|e| Error::io("the connection", e))?;
        if let Some(mut request) = next {
            let answer = site.answer(&mut request);
            // Who asked may be gone.
            if let Err(e) = request.respond(response(answer)) {
                common.note(format!("a reply was not taken: {e}"));
            }
        }
    }
    Ok(())
}

struct Site<'a, 'b> {
    port: u16,
    out: &'a Path,
    session: &'a mut Session<'b>,
    answer: &'a dyn Fn(&mut Session) -> Result<Outcome>,
    pages: u64,
}

impl Site<'_, '_> {
    fn answer(&mut self, request: &mut Request) -> Answer {
        if let Err(why) = self.check(request) {
            return text(403, &why);
        }
        let path = request.url().split('?').next().unwrap_or_default().to_owned();
        match (request.method(), path.as_str()) {
            (Method::Get, "/") => self.page(),
            (Method::Get, "/favicon.ico") => Answer { status: 204, kind: "image/png", body: Vec::new(), nonce: None },
            (Method::Get, "/events") => data(200, &json!(self.events(0))),
            (Method::Post, "/say") => self.say(request),
            (Method::Get, path) => match path.strip_prefix("/image/") {
                Some(file) => self.image(file),
                None => text(404, "there is no such page"),
            },
            _ => text(405, "this page cannot be asked like that"),
        }
    }

    /// The caller has to use this server's own name, and not come from another site's page.
    fn check(&self, request: &Request) -> Result<(), String> {
        let own = [format!("127.0.0.1:{}", self.port), format!("localhost:{}", self.port)];
        let header = |name: &'static str| {
            let found = request.headers().iter().find(|header| header.field.equiv(name));
            found.map(|header| header.value.as_str().to_owned())
        };
        match header("Host") {
            Some(host) if own.contains(&host) => {}
            _ => return Err(format!("this server answers to http://{} only", own[0])),
        }
        let from_elsewhere = |origin: &String| !own.iter().any(|own| *origin == format!("http://{own}"));
        if header("Origin").as_ref().is_some_and(from_elsewhere) {
            return Err("this request comes from another site".into());
        }
        if header("Sec-Fetch-Site").is_some_and(|site| !["same-origin", "none"].contains(&site.as_str())) {
            return Err("this request comes from another site".into());
        }
        // A form of another site cannot send this type.
        let kind = header("Content-Type").unwrap_or_default();
        if *request.method() == Method::Post && kind.split(';').next() != Some("application/json") {
            return Err("expected application/json".into());
        }
        Ok(())
    }

    fn page(&mut self) -> Answer {
        self.pages += 1;
        // Keyed by the system's random numbers.
        let nonce = format!("{:016x}", RandomState::new().hash_one(self.pages));
        let body = PAGE.replace("NONCE", &nonce).into_bytes();
        Answer { status: 200, kind: "text/html; charset=utf-8", body, nonce: Some(nonce) }
    }

    /// What the page shows of the events from `first` on.
    fn events(&self, first: usize) -> Vec<Value> {
        let shown = |event: &Event| match event {
            Event::User { text, .. } => json!({"role": "user", "text": text}),
            Event::Assistant { shown, errors, .. } => json!({"role": "assistant", "text": shown, "errors": errors}),
            Event::Tool { id, file, tool, .. } => json!({"role": "image", "id": id, "file": file, "tool": tool}),
        };
        self.session.events()[first..].iter().map(shown).collect()
    }

    fn say(&mut self, request: &mut Request) -> Answer {
        let mut body = Vec::new();
        if let Err(e) = request.as_reader().take(LONGEST + 1).read_to_end(&mut body) {
            return text(400, &format!("the message broke off: {e}"));
        }
        if body.len() as u64 > LONGEST {
            return text(413, "the message is too long");
        }
        let said = match serde_json::from_slice::<Said>(&body) {
            Ok(said) if !said.text.trim().is_empty() => said.text.trim().to_owned(),
            _ => return text(400, "expected {\"text\": \"...\"}"),
        };
        let first = self.session.events().len();
        let done = self.session.user(&said).and_then(|()| (self.answer)(self.session));
        let error = done.err().map(|error| error.to_string());
        data(200, &json!({"events": self.events(first), "error": error}))
    }

    /// Files of the dialogue, and no others.
    fn image(&self, file: &str) -> Answer {
        let known = |event: &Event| matches!(event, Event::Tool { file: own, .. } if own == file);
        if !self.session.events().iter().any(known) {
            return text(404, "there is no such image");
        }
        match std::fs::read(self.out.join(file)) {
            Ok(body) => Answer { status: 200, kind: "image/png", body, nonce: None },
            Err(e) => text(404, &format!("the image cannot be read: {e}")),
        }
    }
}

fn text(status: u16, why: &str) -> Answer {
    Answer { status, kind: "text/plain; charset=utf-8", body: format!("{why}\n").into_bytes(), nonce: None }
}

fn data(status: u16, value: &Value) -> Answer {
    Answer { status, kind: "application/json", body: value.to_string().into_bytes(), nonce: None }
}

fn response(answer: Answer) -> Response<std::io::Cursor<Vec<u8>>> {
    let script = answer.nonce.map_or("'none'".to_owned(), |nonce| format!("'nonce-{nonce}'"));
    let policy = format!(
        "default-src 'none'; script-src {script}; style-src {script}; img-src 'self'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let headers = [
        ("Content-Type", answer.kind),
        ("Content-Security-Policy", &policy),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cache-Control", "no-store"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
    ];
    let mut response = Response::from_data(answer.body).with_status_code(answer.status);
    for (name, value) in headers {
        // These are all printable ASCII.
        if let Ok(header) = Header::from_bytes(name, value) {
            response.add_header(header);
        }
    }
    response
}
