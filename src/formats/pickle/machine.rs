//! The pickle machine, as far as weights need it: it builds containers, numbers, strings and tensors, and calls nothing.
//!
//! Source: CPython's Lib/pickletools.py for the opcodes, torch/serialization.py and torch/_utils.py for what PyTorch puts
//! into them.

use std::collections::HashMap;

use super::value::{Global, Storage, Value, View};

/// Everything that a pickle has built.
#[derive(Debug, Default)]
pub struct Objects<'a> {
    /// Lists and tuples.
    pub sequences: Vec<Vec<Value<'a>>>,
    pub dicts: Vec<Vec<(Value<'a>, Value<'a>)>>,
    pub storages: Vec<Storage<'a>>,
    pub views: Vec<View>,
}

/// Runs a pickle and returns what it leaves on the stack.
///
/// # Errors
/// A sentence: a global that is not one of `Global`, an opcode that weights do not need, a damaged pickle.
pub fn run(bytes: &[u8]) -> Result<(Value<'_>, Objects<'_>), String> {
    let mut machine = Machine {
        bytes,
        at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        objects: Objects::default(),
    };
    loop {
        if let Some(value) = machine.step()? {
            return Ok((value, machine.objects));
        }
    }
}

pub(super) struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    pub(super) stack: Vec<Value<'a>>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u64, Value<'a>>,
    pub(super) objects: Objects<'a>,
}

pub(super) const DAMAGED: &str = "its pickle is damaged";

impl<'a> Machine<'a> {
    /// One opcode; the result at the end.
    fn step(&mut self) -> Result<Option<Value<'a>>, String> {
        let [code] = *self.take(1)? else { return Err(DAMAGED.into()) };
        match code {
            // PROTO and FRAME say nothing that is needed here.
            0x80 => drop(self.number(1)?),
            0x95 => drop(self.number(8)?),
            b'.' => return self.pop().map(Some),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.marked()?),
            b'2' => self.stack.push(*self.stack.last().ok_or(DAMAGED)?),
            b'N' => self.stack.push(Value::None),
            0x88 => self.stack.push(Value::Bool(true)),
            0x89 => self.stack.push(Value::Bool(false)),
            b'J' => self.int(4)?,
            b'K' => self.int(1)?,
            b'M' => self.int(2)?,
            0x8a => self.long()?,
            b'G' => {
                let bits = self.take(8)?.iter().fold(0, |bits, &byte| bits << 8 | u64::from(byte));
                self.stack.push(Value::Float(f64::from_bits(bits)));
            }
            b'X' | b'T' => self.text(4)?,
            0x8c | b'U' => self.text(1)?,
            0x8d => self.text(8)?,
            b')' => self.sequence(0, Value::Tuple)?,
            0x85 => self.sequence(1, Value::Tuple)?,
            0x86 => self.sequence(2, Value::Tuple)?,
            0x87 => self.sequence(3, Value::Tuple)?,
            b']' => self.sequence(0, Value::List)?,
            b't' | b'l' => {
                let items = self.marked()?;
                self.objects.sequences.push(items);
                let index = self.objects.sequences.len() - 1;
                self.stack.push(if code == b't' { Value::Tuple(index) } else { Value::List(index) });
            }
            b'a' => {
                let item = self.pop()?;
                self.list()?.push(item);
            }
            b'e' => {
                let items = self.marked()?;
                self.list()?.extend(items);
            }
            b'}' => self.dict(Vec::new()),
            b'd' => {
                let items = self.marked()?;
                self.dict(pairs(&items)?);
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.top_dict()?.push((key, value));
            }
            b'u' => {
                let items = pairs(&self.marked()?)?;
                self.top_dict()?.extend(items);
            }
            b'q' => self.remember(1)?,
            b'r' => self.remember(4)?,
            0x94 => drop(self.memo.insert(self.memo.len() as u64, *self.stack.last().ok_or(DAMAGED)?)),
            b'h' => self.recall(1)?,
            b'j' => self.recall(4)?,
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)?;
            }
            0x93 => match (self.pop()?, self.pop()?) {
                (Value::Text(name), Value::Text(module)) => self.global(module, name)?,
                _ => return Err(DAMAGED.into()),
            },
            b'Q' => self.storage()?,
            b'R' => self.reduce()?,
            b'b' => {
                // An OrderedDict's attributes: the version numbers of a state dict's modules.
                self.pop()?;
                self.top_dict()?;
            }
            other => {
                let name = name(other).map_or(String::new(), |name| format!(" ({name})"));
                return Err(format!("its pickle uses the opcode {other:#04x}{name}, which weights do not need"));
            }
        }
        Ok(None)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.bytes.len()).ok_or("its pickle is truncated")?;
        let bytes = &self.bytes[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    fn number(&mut self, bytes: usize) -> Result<u64, String> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    /// Of 4 bytes signed, of fewer not.
    fn int(&mut self, bytes: usize) -> Result<(), String> {
        let value = self.number(bytes)?;
        self.stack.push(Value::Int(if bytes == 4 { i64::from(value as u32 as i32) } else { value as i64 }));
        Ok(())
    }

    /// Two's complement of up to 8 bytes.
    fn long(&mut self) -> Result<(), String> {
        let length = self.number(1)? as usize;
        let bytes = self.take(length)?;
        if length > 8 {
            return Err("its pickle has an integer of more than 64 bits".into());
        }
        let fill = if bytes.last().is_some_and(|&byte| byte >= 0x80) { u64::MAX } else { 0 };
        self.stack.push(Value::Int(bytes.iter().rev().fold(fill, |value, &byte| value << 8 | u64::from(byte)) as i64));
        Ok(())
    }

    fn text(&mut self, length: usize) -> Result<(), String> {
        let length = usize::try_from(self.number(length)?).map_err(|_| DAMAGED)?;
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| "its pickle has a string that is not UTF-8")?;
        self.stack.push(Value::Text(text));
        Ok(())
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|&byte| byte == b'\n').ok_or("its pickle is truncated")?;
        let line = self.take(length + 1)?;
        std::str::from_utf8(&line[..length]).map_err(|_| DAMAGED.into())
    }

    pub(super) fn pop(&mut self) -> Result<Value<'a>, String> {
        // What lies below a mark belongs to whoever set it.
        match self.marks.last() {
            Some(&mark) if self.stack.len() <= mark => Err(DAMAGED.into()),
            _ => self.stack.pop().ok_or_else(|| DAMAGED.into()),
        }
    }

    /// What stands above the last mark.
    fn marked(&mut self) -> Result<Vec<Value<'a>>, String> {
        let mark = self.marks.pop().filter(|&mark| mark <= self.stack.len()).ok_or(DAMAGED)?;
        Ok(self.stack.split_off(mark))
    }

    fn sequence(&mut self, count: usize, kind: fn(usize) -> Value<'a>) -> Result<(), String> {
        let mut items = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        self.objects.sequences.push(items);
        self.stack.push(kind(self.objects.sequences.len() - 1));
        Ok(())
    }

    pub(super) fn dict(&mut self, items: Vec<(Value<'a>, Value<'a>)>) {
        self.objects.dicts.push(items);
        self.stack.push(Value::Dict(self.objects.dicts.len() - 1));
    }

    fn list(&mut self) -> Result<&mut Vec<Value<'a>>, String> {
        match self.stack.last() {
            Some(&Value::List(index)) => Ok(&mut self.objects.sequences[index]),
            _ => Err(DAMAGED.into()),
        }
    }

    fn top_dict(&mut self) -> Result<&mut Vec<(Value<'a>, Value<'a>)>, String> {
        match self.stack.last() {
            Some(&Value::Dict(index)) => Ok(&mut self.objects.dicts[index]),
            _ => Err("its pickle sets the attributes of something that is no dictionary".into()),
        }
    }

    fn remember(&mut self, bytes: usize) -> Result<(), String> {
        let key = self.number(bytes)?;
        self.memo.insert(key, *self.stack.last().ok_or(DAMAGED)?);
        Ok(())
    }

    fn recall(&mut self, bytes: usize) -> Result<(), String> {
        let key = self.number(bytes)?;
        self.stack.push(*self.memo.get(&key).ok_or(DAMAGED)?);
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), String> {
        let global = Global::find(module, name).ok_or_else(|| {
            format!(
                "its pickle refers to {module}.{name}, which is neither a tensor nor a container and could run code"
            )
        })?;
        self.stack.push(Value::Global(global));
        Ok(())
    }
}

fn pairs<'a>(items: &[Value<'a>]) -> Result<Vec<(Value<'a>, Value<'a>)>, String> {
    match items.len() % 2 {
        0 => Ok(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()),
        _ => Err(DAMAGED.into()),
    }
}

/// Of the opcodes that run code or load what is not data.
fn name(code: u8) -> Option<&'static str> {
    Some(match code {
        b'i' => "INST",
        b'o' => "OBJ",
        b'P' => "PERSID",
        0x81 => "NEWOBJ",
        0x92 => "NEWOBJ_EX",
        0x82..=0x84 => "EXT",
        _ => return None,
    })
}
