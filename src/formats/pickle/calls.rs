//! The calls of a pickle: of the two functions that there are, and for storages.

use super::machine::{DAMAGED, Machine};
use super::value::{Global, Storage, Value, View};

impl<'a> Machine<'a> {
    fn tuple(&self, value: Value<'a>) -> Result<&[Value<'a>], String> {
        match value {
            Value::Tuple(index) => Ok(&self.objects.sequences[index]),
            _ => Err(DAMAGED.into()),
        }
    }

    pub(super) fn storage(&mut self) -> Result<(), String> {
        let id = self.pop()?;
        let storage = match self.tuple(id)? {
            [Value::Text("storage"), Value::Global(Global::Storage(element)), Value::Text(key), _, Value::Int(len)] => {
                let len = usize::try_from(*len).map_err(|_| DAMAGED)?;
                Storage { element: *element, key, len }
            }
            _ => return Err("its pickle has a persistent object that is no storage of a tensor".into()),
        };
        self.objects.storages.push(storage);
        self.stack.push(Value::Storage(self.objects.storages.len() - 1));
        Ok(())
    }

    /// Calls one of the two functions that there are.
    pub(super) fn reduce(&mut self) -> Result<(), String> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let arguments = self.tuple(arguments)?.to_vec();
        match (function, &arguments[..]) {
            (Value::Global(Global::OrderedDict), []) => self.dict(Vec::new()),
            (Value::Global(Global::OrderedDict), [Value::List(items)]) => {
                let items = self.objects.sequences[*items].clone();
                let pair = |item| match self.tuple(item)? {
                    [key, value] => Ok((*key, *value)),
                    _ => Err(DAMAGED.to_string()),
                };
                let items = items.into_iter().map(pair).collect::<Result<_, _>>()?;
                self.dict(items);
            }
            (
                Value::Global(Global::RebuildTensor),
                [Value::Storage(storage), Value::Int(offset), shape, strides, Value::Bool(_), _, ..],
            ) => {
                let sizes = |value| -> Result<Vec<usize>, String> {
                    let refuse = || "a tensor has a size or stride that is no number from 0 on".to_string();
                    let size = |size: &Value| match size {
                        Value::Int(size) => usize::try_from(*size).map_err(|_| refuse()),
                        _ => Err(refuse()),
                    };
                    self.tuple(value)?.iter().map(size).collect()
                };
                let (shape, strides) = (sizes(*shape)?, sizes(*strides)?);
                let offset = usize::try_from(*offset).map_err(|_| "a tensor has a negative offset")?;
                if shape.len() != strides.len() {
                    return Err(DAMAGED.into());
                }
                self.objects.views.push(View { storage: *storage, offset, shape, strides });
                self.stack.push(Value::Tensor(self.objects.views.len() - 1));
            }
            _ => return Err("its pickle calls something with arguments that PyTorch does not give it".into()),
        }
        Ok(())
    }
}
