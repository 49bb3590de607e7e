//! The three requests of DSG: a prompt's tuples, their dependencies, their questions. Source: Cho et al. 2024,
//! arXiv:2310.18235, section 3; the examples are our own.

use serde::Deserialize;

use crate::prompting::reply::plain_line;

/// What is asked for. The order is that of the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    Tuples,
    Dependencies,
    Questions,
}

#[derive(Deserialize)]
struct Examples {
    example: Vec<Example>,
}

#[derive(Deserialize)]
struct Example {
    prompt: String,
    /// Tuple, parents, question.
    rows: Vec<[String; 3]>,
}

impl Task {
    fn instruction(self) -> &'static str {
        match self {
            Task::Tuples => {
                "Say what a picture of each prompt must show, as a list of tuples. A tuple states one thing: an entity \
                 (whole or part), an attribute (color, count, material, shape, size, state, style, texture, type), a relation \
                 (spatial or action), text that is to be read, or something of the picture as a whole (global). State only what \
                 the prompt says, and nothing twice. Entities come before what is said of them. One tuple a line: id | tuple"
            }
            Task::Dependencies => {
                "Each tuple of a prompt can be checked in a picture only if the tuples that it builds upon hold: the red of a bus \
                 needs the bus. Name these parents for each tuple by their ids, separated by commas, or 0 where there are none. \
                 One tuple a line, each of them once: id | ids of its parents"
            }
            Task::Questions => {
                "Turn each tuple of a prompt into a question about a picture that is answered with yes if the picture shows what \
                 the tuple states, and with no otherwise. One question a line, one for each tuple: id | question"
            }
        }
    }

    /// The text of a request. `tuples` are those of the prompt, by id; empty where they are asked for.
    pub fn request(self, prompt: &str, tuples: &[(usize, String)]) -> String {
        let mut text = format!("{}\n", self.instruction());
        for example in examples() {
            let rows = || example.rows.iter().zip(1..);
            let tuples: Vec<_> = rows().map(|(row, id)| (id, row[0].clone())).collect();
            let given = if self == Task::Tuples { &[][..] } else { &tuples };
            text += &input(&example.prompt, given);
            rows().for_each(|(row, id)| text += &format!("{id} | {}\n", row[self as usize]));
        }
        text + input(prompt, tuples).trim_end()
    }
}

/// A prompt is one line, whatever it holds: it cannot pass for a part of the request.
fn input(prompt: &str, tuples: &[(usize, String)]) -> String {
    let tuples: String = tuples.iter().map(|(id, tuple)| format!("{id} | {tuple}\n")).collect();
    format!("\ninput: {}\n{tuples}output:\n", plain_line(prompt))
}

fn examples() -> Vec<Example> {
    let text = include_str!("../../../../assets/questions/examples.toml");
    let read: Examples = toml::from_str(text).expect("the examples in the binary are tested");
    read.example
}
