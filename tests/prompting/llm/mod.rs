//! The client against a server that misbehaves.

mod failures;

use std::time::{Duration, Instant};

use selma::prompting::llm::{Api, Client, Limits, Reply, Settings};
use serde_json::json;

use crate::server::{Answer, Server, chat, failure};

const KEY: &str = "sk-do-not-show-this";

fn settings(url: &str) -> Settings {
    Settings {
        url: url.into(),
        model: "writer".into(),
        timeout: Duration::from_millis(400),
        retries: 2,
        pause: Duration::from_millis(5),
        longest_pause: Duration::from_secs(3),
        ..Settings::default()
    }
}

fn ask(url: &str) -> Result<Reply, String> {
    let client = Client::new(settings(url), Some(KEY.into()), Limits::default()).unwrap();
    client.complete("a request").map_err(|e| e.to_string())
}

/// The error, in less time than an unbounded wait would take, and without the key.
fn refusal(server: &Server) -> String {
    let start = Instant::now();
    let message = ask(&server.url).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(10), "{message} after {:?}", start.elapsed());
    assert!(!message.contains(KEY) && !message.contains(char::is_control), "{message:?}");
    message
}

#[test]
fn a_chat_request_and_its_reply() {
    let server = Server::start(|_, _| chat("4. A cat", "stop"));
    let reply = ask(&format!("{}/v1/", server.url)).unwrap();
    assert_eq!((reply.text.as_str(), reply.finish_reason.as_deref()), ("4. A cat", Some("stop")));
    assert_eq!((reply.usage.input, reply.usage.output, reply.usage.estimated), (300, 200, false));
    let [request] = &server.seen()[..] else { panic!("one request") };
    assert_eq!(request.path, "/v1/chat/completions");
    let has = |line: &str| request.headers.iter().any(|header| header.eq_ignore_ascii_case(line));
    assert!(has(&format!("Authorization: Bearer {KEY}")) && has("Content-Type: application/json"));
    let expected = json!({"model": "writer", "messages": [{"role": "user", "content": "a request"}],
                          "max_tokens": 3072, "temperature": 1.0});
    assert_eq!(request.body, expected);
}

#[test]
fn the_older_protocol_and_replies_without_usage() {
    let server =
        Server::start(|_, _| Answer::Json(200, json!({"choices": [{"text": "4. A cat", "finish_reason": "length"}]})));
    let client =
        Client::new(Settings { api: Some(Api::Completions), ..settings(&server.url) }, None, Limits::default())
            .unwrap();
    let reply = client.complete("123456789").unwrap();
    assert_eq!((reply.usage.input, reply.usage.output, reply.usage.estimated), (3, 3, true));
    let request = &server.seen()[0];
    assert_eq!((request.path.as_str(), request.prompt()), ("/v1/completions", "123456789"));
    assert!(!request.headers.iter().any(|header| header.to_lowercase().starts_with("authorization")));
}

#[test]
fn contents_that_are_no_string() {
    for (content, text) in [
        (json!(null), ""),
        (json!([{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]), "ab"),
    ] {
        let server =
            Server::start(move |_, _| Answer::Json(200, json!({"choices": [{"message": {"content": content}}]})));
        assert_eq!(ask(&server.url).unwrap().text, text);
    }
}

#[test]
fn an_endpoint_that_wants_it_said_otherwise() {
    let server = Server::start(|_, request| {
        if request.body.get("max_tokens").is_some() {
            failure(400, "'max_tokens' is not supported, use 'max_completion_tokens'", "unsupported_parameter")
        } else if request.body.get("temperature").is_some() {
            failure(400, "'temperature' does not support 1.0 with this model", "unsupported_value")
        } else if request.body["max_completion_tokens"].as_u64() > Some(2000) {
            failure(400, "Please reduce your prompt; or completion length", "context_length_exceeded")
        } else {
            chat("fine", "stop")
        }
    });
    assert_eq!(ask(&server.url).unwrap().text, "fine");
    let limits: Vec<u64> = server.seen().iter().filter_map(|r| r.body["max_completion_tokens"].as_u64()).collect();
    assert_eq!(limits, [3072, 3072, 2457, 1965]);
    // What cannot be said otherwise ends.
    assert!(refusal(&Server::start(|_, _| failure(400, "temperature", ""))).contains("temperature"));
}

#[test]
fn caps_on_requests_and_cost() {
    let server = Server::start(|_, _| chat("fine", "stop"));
    let client = |limits| Client::new(settings(&server.url), None, limits).unwrap();
    let two = client(Limits { requests: Some(2), ..Limits::default() });
    assert!(two.complete("x").is_ok() && two.complete("x").is_ok());
    assert!(two.complete("x").unwrap_err().to_string().contains("the cap of 2 requests is reached"));
    assert_eq!(server.seen().len(), 2);

    // A request may cost 3072 tokens of 1000 a million, and costs 300 + 200.
    let limits = Limits { cost: Some(4.0), input_price: 1000.0, output_price: 1000.0, ..Limits::default() };
    let dear = client(limits);
    assert!(dear.complete("x").is_ok());
    assert!((dear.budget.spent().cost - 0.5).abs() < 1e-12);
    assert!(dear.complete("x").is_ok());
    let message = dear.complete("x").unwrap_err().to_string();
    assert!(message.contains("the cap on cost is reached: 1.0000 of 4 are spent"), "{message}");

    // A reply that was lost counts as if it had been as long as allowed, a refusal as nothing.
    let lost = Server::start(|number, _| match number {
        0 => failure(500, "", ""),
        1 => Answer::Raw("HTTP/1.1 200 OK\r\n\r\n{".into()),
        _ => chat("fine", "stop"),
    });
    let client = Client::new(settings(&lost.url), None, Limits { output_price: 1e6, ..Limits::default() }).unwrap();
    client.complete("x").unwrap();
    assert_eq!((client.budget.spent().requests, client.budget.spent().cost), (3, 3272.0));
}

#[test]
fn addresses() {
    let path = |suffix: &str, api| {
        let server = Server::start(|_, request| match request.path.ends_with("chat/completions") {
            true => chat("", "stop"),
            false => Answer::Json(200, json!({"choices": [{"text": ""}]})),
        });
        let settings = Settings { api, ..settings(&format!("{}{suffix}", server.url)) };
        Client::new(settings, None, Limits::default()).unwrap().complete("x").unwrap();
        server.seen()[0].path.clone()
    };
    assert_eq!(path("", None), "/v1/chat/completions");
    assert_eq!(path("/api/v3/", None), "/api/v3/chat/completions");
    assert_eq!(path("/x/chat/completions", None), "/x/chat/completions");
    assert_eq!(path("/v1/completions", None), "/v1/completions");
    assert_eq!(path("/v1", Some(Api::Completions)), "/v1/completions");
    for (url, words) in [
        ("localhost:8000", "begins with http"),
        ("ftp://host/v1", "begins with http"),
        ("http:///v1", "no host"),
        ("http://ho st/v1", "blanks"),
        ("http://name:secret@host/v1", "user name or a query"),
        ("https://host/v1?key=secret", "user name or a query"),
    ] {
        let error = Client::new(settings(url), None, Limits::default()).err().unwrap();
        let message = error.to_string();
        assert!(error.exit_code() == 2 && message.contains(words) && !message.contains("secret"), "{url}: {message}");
    }
    let clash = Settings { api: Some(Api::Chat), ..settings("http://host/v1/completions") };
    assert_eq!(Client::new(clash, None, Limits::default()).err().unwrap().exit_code(), 2);
    assert!(Client::new(settings("http://host"), Some("a\nb".into()), Limits::default()).is_err());
    let exposed = |url, key: Option<&str>| {
        let mut told = false;
        let client = Client::new(settings(url), key.map(str::to_owned), Limits::default()).unwrap();
        client.warn_of_key(|_| told = true);
        told
    };
    assert!(exposed("http://host", Some(KEY)) && !exposed("http://host", None));
    assert!(!exposed("https://host", Some(KEY)) && !exposed("http://127.0.0.1:1", Some(KEY)));
}
