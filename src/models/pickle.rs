//! The part of Python's pickle that `torch.save` writes, read into plain data. Nothing is ever executed.
//!
//! candle has a reader as well. It is not used, because it allocates lengths as a file declares them and leaves out
//! without a word what it does not understand. Here every length is held against the bytes that are left, and text is
//! borrowed from them. Containers are numbers into a few tables: to fetch a value again copies no content, a container
//! that holds itself does no harm, and nothing recurses, however deep a file nests.

use std::collections::BTreeMap;

use safetensors::tensor::Dtype;

use super::error::{Parsed, shown};

/// Two thousand tensors take half a megabyte.
const MAX_BYTES: usize = 16 << 20;
/// A tensor takes about forty instructions.
const MAX_STEPS: usize = 1 << 20;
/// A tensor leaves about forty values in the tables below.
const MAX_VALUES: usize = 1 << 18;
/// Keeps a long tuple from being copied into the shape of many tensors.
const MAX_DIMS: usize = 8;
/// Bytes of a module's or a function's name.
const MAX_NAME: usize = 256;

/// One tensor, as the file describes it.
#[derive(Clone, Debug)]
pub(super) struct PickledTensor<'a> {
    /// Where its numbers are.
    pub storage: Storage<'a>,
    /// Its first number in the storage.
    pub offset: usize,
    /// Sizes of its dimensions.
    pub shape: Vec<usize>,
    /// Numbers between neighbours in each dimension.
    pub strides: Vec<usize>,
}

/// A row of numbers that is stored beside the pickle; tensors may share it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Storage<'a> {
    /// Its name in the archive.
    pub key: &'a str,
    /// Number type.
    pub dtype: Dtype,
    /// How many numbers it holds.
    pub len: usize,
}

/// What a file holds.
#[derive(Debug)]
pub(super) enum Pickled<'a> {
    /// The tensors of a dict, or of the one under `state_dict` in it.
    Named(BTreeMap<&'a str, PickledTensor<'a>>),
    /// The tensors of a list, which have no names.
    Listed(Vec<PickledTensor<'a>>),
}

/// The tensors of a dict or of a list.
///
/// # Errors
/// When the pickle is damaged, asks for anything but tensors, or holds none.
pub(super) fn tensors(bytes: &[u8]) -> Parsed<Pickled<'_>> {
    if bytes.len() > MAX_BYTES {
        return Err(format!(
            "its description of {} bytes is larger than that of any model",
            bytes.len()
        ));
    }
    let mut machine = Machine {
        length: bytes.len(),
        rest: bytes,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: BTreeMap::new(),
        parts: Vec::new(),
        dicts: Vec::new(),
        lists: Vec::new(),
        entries: 0,
        tensors: Vec::new(),
    };
    match machine.run()? {
        Value::List(list) => machine.listed(list).map(Pickled::Listed),
        top => machine.weights(top).map(Pickled::Named),
    }
}

#[derive(Clone, Copy)]
enum Value<'a> {
    /// None, a truth value or a fraction: read over, never looked at.
    Plain,
    Number(i64),
    Text(&'a str),
    Global(Global),
    List(usize),
    /// Where its values begin in [`Machine::parts`], and how many they are.
    Tuple(usize, usize),
    Dict(usize),
    Storage(Storage<'a>),
    Tensor(usize),
}

/// All that may be named.
#[derive(Clone, Copy)]
enum Global {
    OrderedDict,
    Tensor,
    Parameter,
    Storage(Dtype),
}

struct Machine<'a> {
    length: usize,
    rest: &'a [u8],
    stack: Vec<Value<'a>>,
    /// Heights of the stack that marks were set at.
    marks: Vec<usize>,
    memo: BTreeMap<u32, Value<'a>>,
    parts: Vec<Value<'a>>,
    dicts: Vec<Vec<(Value<'a>, Value<'a>)>>,
    lists: Vec<Vec<Value<'a>>>,
    /// Entries of all dicts and lists.
    entries: usize,
    tensors: Vec<PickledTensor<'a>>,
}

impl<'a> Machine<'a> {
    /// Runs to the end and gives the one value that is left.
    fn run(&mut self) -> Parsed<Value<'a>> {
        let [start, protocol] = self.array::<2>()?;
        if (start, protocol) != (0x80, 2) {
            return Err("its description is not pickled by torch.save's own protocol 2".to_owned());
        }
        for _ in 0..MAX_STEPS {
            let instruction = self.byte()?;
            if instruction != b'.' {
                self.step(instruction)?;
                self.check_size()?;
                continue;
            }
            let top = self.pop()?;
            if !self.stack.is_empty() || !self.marks.is_empty() || !self.rest.is_empty() {
                return Err("its description goes on after its end".to_owned());
            }
            return Ok(top);
        }
        Err(format!(
            "its description has more than {MAX_STEPS} instructions"
        ))
    }

    /// An instruction of one byte may make a value of forty: without a limit a small file could ask for a lot of memory.
    fn check_size(&self) -> Parsed<()> {
        // A tensor is as large as a handful of values, a pair of a dict as two.
        let values = self.stack.len()
            + self.marks.len()
            + self.memo.len()
            + self.parts.len()
            + self.dicts.len()
            + self.lists.len()
            + 2 * self.entries
            + 6 * self.tensors.len();
        match values <= MAX_VALUES {
            true => Ok(()),
            false => Err(format!(
                "its description makes more than {MAX_VALUES} values, more than that of any model"
            )),
        }
    }

    fn step(&mut self, instruction: u8) -> Parsed<()> {
        match instruction {
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'q' => {
                let place = u32::from(self.byte()?);
                self.put(place)
            }
            b'r' => {
                let place = u32::from_le_bytes(self.array()?);
                self.put(place)
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(&[key, value])
            }
            b'u' => {
                let from = self.unmark()?;
                let items = self.stack.split_off(from);
                self.set_items(&items)
            }
            b'a' => {
                let value = self.pop()?;
                self.append(&[value])
            }
            b'e' => {
                let from = self.unmark()?;
                let values = self.stack.split_off(from);
                self.append(&values)
            }
            b'b' => self.set_state(),
            other => {
                let value = self.value(other)?;
                self.stack.push(value);
                Ok(())
            }
        }
    }

    /// The value an instruction makes.
    fn value(&mut self, instruction: u8) -> Parsed<Value<'a>> {
        Ok(match instruction {
            b'N' | 0x88 | 0x89 => Value::Plain,
            b'G' => {
                self.take(8)?;
                Value::Plain
            }
            b'K' => Value::Number(i64::from(self.byte()?)),
            b'M' => Value::Number(i64::from(u16::from_le_bytes(self.array()?))),
            b'J' => Value::Number(i64::from(i32::from_le_bytes(self.array()?))),
            0x8a => Value::Number(self.long()?),
            b'X' => {
                let length = u32::from_le_bytes(self.array()?) as usize;
                Value::Text(text(self.take(length)?)?)
            }
            b'c' => Value::Global(self.global()?),
            b']' => {
                self.lists.push(Vec::new());
                Value::List(self.lists.len() - 1)
            }
            b'}' => self.new_dict(),
            b')' => Value::Tuple(self.parts.len(), 0),
            0x85..=0x87 => {
                let length = usize::from(instruction - 0x84);
                let from = self.stack.len().checked_sub(length);
                let from = from.filter(|&from| from >= self.floor());
                self.new_tuple(from.ok_or_else(nothing_there)?)
            }
            b't' => {
                let from = self.unmark()?;
                self.new_tuple(from)
            }
            b'h' => {
                let place = u32::from(self.byte()?);
                self.get(place)?
            }
            b'j' => {
                let place = u32::from_le_bytes(self.array()?);
                self.get(place)?
            }
            b'Q' => self.storage()?,
            b'R' => self.call()?,
            other => return Err(refused(other, self.length - self.rest.len() - 1)),
        })
    }

    fn take(&mut self, length: usize) -> Parsed<&'a [u8]> {
        let rest = self.rest;
        let (head, rest) = rest.split_at_checked(length).ok_or_else(|| {
            format!(
                "its description is cut off: {length} bytes are declared where {} are left",
                rest.len()
            )
        })?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    fn byte(&mut self) -> Parsed<u8> {
        let [byte] = self.array::<1>()?;
        Ok(byte)
    }

    /// A whole number in two's complement, its length before it.
    fn long(&mut self) -> Parsed<i64> {
        let length = usize::from(self.byte()?);
        let bytes = self.take(length)?;
        let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        match wide.get_mut(..length) {
            Some(low) => low.copy_from_slice(bytes),
            None => return Err(format!("it holds a whole number of {length} bytes")),
        }
        Ok(i64::from_le_bytes(wide))
    }

    /// The bytes up to the next line feed.
    fn line(&mut self) -> Parsed<&'a str> {
        let window = &self.rest[..self.rest.len().min(MAX_NAME)];
        let Some(length) = window.iter().position(|&byte| byte == b'\n') else {
            return Err(
                "its description is cut off inside a name, or the name is too long".to_owned(),
            );
        };
        let line = text(self.take(length)?)?;
        self.take(1)?;
        Ok(line)
    }

    fn global(&mut self) -> Parsed<Global> {
        let (module, name) = (self.line()?, self.line()?);
        match (module, name) {
            ("collections", "OrderedDict") => Some(Global::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Global::Tensor),
            ("torch._utils", "_rebuild_parameter") => Some(Global::Parameter),
            ("torch", name) => storage_dtype(name).map(Global::Storage),
            _ => None,
        }
        .ok_or_else(|| never_run(&shown(&format!("{module}.{name}"))))
    }

    /// Below this the stack belongs to what stands before the last mark.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Parsed<Value<'a>> {
        let value = self.top()?;
        self.stack.pop();
        Ok(value)
    }

    fn top(&self) -> Parsed<Value<'a>> {
        match self.stack.get(self.floor()..) {
            Some([.., value]) => Ok(*value),
            _ => Err(nothing_there()),
        }
    }

    fn unmark(&mut self) -> Parsed<usize> {
        self.marks.pop().ok_or_else(nothing_there)
    }

    fn put(&mut self, place: u32) -> Parsed<()> {
        let value = self.top()?;
        self.memo.insert(place, value);
        Ok(())
    }

    fn get(&self, place: u32) -> Parsed<Value<'a>> {
        let value = self.memo.get(&place).copied();
        value.ok_or_else(|| format!("it fetches value {place}, which it never stored"))
    }

    fn new_dict(&mut self) -> Value<'a> {
        self.dicts.push(Vec::new());
        Value::Dict(self.dicts.len() - 1)
    }

    /// A tuple of what stands on the stack from here on.
    fn new_tuple(&mut self, from: usize) -> Value<'a> {
        let start = self.parts.len();
        self.parts.extend(self.stack.drain(from..));
        Value::Tuple(start, self.parts.len() - start)
    }

    fn tuple(&self, value: Value<'a>) -> Option<&[Value<'a>]> {
        match value {
            Value::Tuple(start, length) => self.parts.get(start..start + length),
            _ => None,
        }
    }

    fn set_items(&mut self, items: &[Value<'a>]) -> Parsed<()> {
        let Value::Dict(dict) = self.top()? else {
            return Err("it stores entries in what is no dict".to_owned());
        };
        let (pairs, single) = items.as_chunks::<2>();
        if !single.is_empty() {
            return Err("it stores a name without a value".to_owned());
        }
        self.entries += pairs.len();
        self.dicts[dict].extend(pairs.iter().map(|&[key, value]| (key, value)));
        Ok(())
    }

    fn append(&mut self, values: &[Value<'a>]) -> Parsed<()> {
        let Value::List(list) = self.top()? else {
            return Err("it appends to what is no list".to_owned());
        };
        self.entries += values.len();
        self.lists[list].extend_from_slice(values);
        Ok(())
    }

    /// The notes `state_dict()` hangs on its dict are dropped; nothing else has a state.
    fn set_state(&mut self) -> Parsed<()> {
        match (self.pop()?, self.top()?) {
            (Value::Dict(_), Value::Dict(_)) => Ok(()),
            _ => Err(never_run("instruction BUILD")),
        }
    }

    fn storage(&mut self) -> Parsed<Value<'a>> {
        let id = self.pop()?;
        let Some(
            &[
                Value::Text("storage"),
                Value::Global(Global::Storage(dtype)),
                Value::Text(key),
                Value::Text(_),
                Value::Number(len),
            ],
        ) = self.tuple(id)
        else {
            return Err("it refers to something that is no storage of numbers".to_owned());
        };
        let len = usize::try_from(len).map_err(|_| format!("it declares {len} numbers"))?;
        Ok(Value::Storage(Storage { key, dtype, len }))
    }

    /// What one of the three functions that may be named gives.
    fn call(&mut self) -> Parsed<Value<'a>> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let arguments = self.tuple(arguments);
        match (function, arguments) {
            (Value::Global(Global::OrderedDict), Some([])) => Ok(self.new_dict()),
            (Value::Global(Global::Tensor), Some(arguments)) => {
                let tensor = self.tensor(arguments)?;
                self.tensors.push(tensor);
                Ok(Value::Tensor(self.tensors.len() - 1))
            }
            (Value::Global(Global::Parameter), Some(&[Value::Tensor(tensor), _, _])) => {
                Ok(Value::Tensor(tensor))
            }
            _ => Err("it calls a function in a way torch.save never does".to_owned()),
        }
    }

    /// Arguments: storage, offset, shape, strides, whether it learns, hooks; in newer files notes as well.
    fn tensor(&self, arguments: &[Value<'a>]) -> Parsed<PickledTensor<'a>> {
        let (arguments, notes) = arguments.split_at_checked(6).unwrap_or((arguments, &[]));
        let &[
            Value::Storage(storage),
            Value::Number(offset),
            shape,
            strides,
            _,
            _,
        ] = arguments
        else {
            return Err("it rebuilds a tensor from other parts than torch.save's".to_owned());
        };
        match notes {
            [] | [Value::Plain] => {}
            [Value::Dict(notes)] if self.dicts[*notes].is_empty() => {}
            // Such a tensor has other values than those that are stored.
            _ => return Err("it holds a conjugate or negative view of a tensor".to_owned()),
        }
        Ok(PickledTensor {
            storage,
            offset: size(offset)?,
            shape: self.sizes(shape)?,
            strides: self.sizes(strides)?,
        })
    }

    fn sizes(&self, value: Value<'a>) -> Parsed<Vec<usize>> {
        let Some(values) = self.tuple(value) else {
            return Err("it holds a tensor whose shape is no tuple".to_owned());
        };
        if values.len() > MAX_DIMS {
            return Err(format!("it holds a tensor of {} dimensions", values.len()));
        }
        let number = |value: &Value<'a>| match value {
            Value::Number(number) => size(*number),
            _ => Err("it holds a tensor whose shape is not in numbers".to_owned()),
        };
        values.iter().map(number).collect()
    }

    /// The tensors of a list, each of which stands in it once.
    fn listed(&self, list: usize) -> Parsed<Vec<PickledTensor<'a>>> {
        let mut seen = vec![false; self.tensors.len()];
        let mut tensors = Vec::new();
        for value in &self.lists[list] {
            let &Value::Tensor(tensor) = value else {
                return Err("it holds a list of something else than tensors".to_owned());
            };
            // A value that is fetched again takes two bytes; a tensor that is copied takes a hundred.
            if std::mem::replace(&mut seen[tensor], true) {
                return Err("it lists a tensor twice".to_owned());
            }
            tensors.push(self.tensors[tensor].clone());
        }
        if tensors.is_empty() {
            return Err("it holds no tensors".to_owned());
        }
        Ok(tensors)
    }

    fn weights(&self, top: Value<'a>) -> Parsed<BTreeMap<&'a str, PickledTensor<'a>>> {
        let Value::Dict(dict) = top else {
            return Err("it holds no dict of tensors".to_owned());
        };
        // A training's checkpoint holds its own notes beside the weights.
        let inner = self.dicts[dict].iter().find_map(|entry| match *entry {
            (Value::Text("state_dict"), Value::Dict(inner)) => Some(inner),
            _ => None,
        });
        let mut tensors = BTreeMap::new();
        for &(name, value) in &self.dicts[inner.unwrap_or(dict)] {
            let Value::Text(name) = name else {
                return Err("it holds a tensor whose name is no text".to_owned());
            };
            match value {
                Value::Tensor(tensor) => {
                    if tensors.insert(name, self.tensors[tensor].clone()).is_some() {
                        return Err(format!("{} is stored twice", shown(name)));
                    }
                }
                // Where torch keeps what is no weight.
                _ if name == "_metadata" || name.ends_with("_extra_state") => {}
                _ => return Err(format!("{} is no tensor", shown(name))),
            }
        }
        if tensors.is_empty() {
            return Err("it holds no tensors".to_owned());
        }
        Ok(tensors)
    }
}

fn text(bytes: &[u8]) -> Parsed<&str> {
    std::str::from_utf8(bytes).map_err(|_| "it holds text that is not UTF-8".to_owned())
}

fn size(number: i64) -> Parsed<usize> {
    usize::try_from(number).map_err(|_| format!("it holds a tensor with a size of {number}"))
}

fn storage_dtype(name: &str) -> Option<Dtype> {
    Some(match name {
        "FloatStorage" => Dtype::F32,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::BF16,
        "DoubleStorage" => Dtype::F64,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" => Dtype::U8,
        "BoolStorage" => Dtype::BOOL,
        _ => return None,
    })
}

fn never_run(what: &str) -> String {
    format!("it asks for code this program never runs ({what})")
}

fn nothing_there() -> String {
    "its description is damaged: it uses a value that is not there".to_owned()
}

fn refused(instruction: u8, at: usize) -> String {
    let name = match instruction {
        b'i' => "INST",
        b'o' => "OBJ",
        0x81 => "NEWOBJ",
        0x82..=0x84 => "EXT",
        0x92 => "NEWOBJ_EX",
        0x93 => "STACK_GLOBAL",
        _ => {
            return format!(
                "instruction {instruction:#04x} at byte {at} of its description is none of torch.save's"
            );
        }
    };
    never_run(&format!("instruction {name}"))
}
