//! What a model replies when it is asked to revise a prompt.

use serde::Deserialize;

/// `{"differences": [...], "prompt": "..."}`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Revision {
    #[serde(default)]
    pub differences: Vec<String>,
    pub prompt: String,
}

/// The first JSON object of a reply, with fences and prose around it; `None` where there is none, or no prompt in it.
pub fn parse(reply: &str) -> Option<Revision> {
    let object = &reply[reply.find('{')?..];
    // The reader stops at the end of the object, whatever follows.
    let revision = serde_json::Deserializer::from_str(object).into_iter::<Revision>().next()?.ok()?;
    (!revision.prompt.trim().is_empty()).then_some(revision)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_found_among_prose() {
        let reply =
            "Sure!\n```json\n{\"differences\": [\"too dark\"], \"prompt\": \"a bright {red} cube\"}\n``` Done }";
        let revision = parse(reply).unwrap();
        assert_eq!((revision.differences.len(), revision.prompt.as_str()), (1, "a bright {red} cube"));
        for unusable in ["no object", "{\"differences\": []}", "{\"prompt\": \" \"}", "{\"prompt\": 3}", "{"] {
            assert_eq!(parse(unusable), None, "{unusable}");
        }
    }
}
