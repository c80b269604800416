//! PyTorch's `.bin` files that `torch.save` would not write: each is refused in words.

use std::fs;
use std::slice;

use candle_core::{DType, Device};
use spectral_motion::models::Weights;

use super::torch_writer::{Pickle, Storage, Style, archive, checkpoint, floats};

fn open(bytes: &[u8]) -> Result<Weights, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weights.bin");
    fs::write(&path, bytes).unwrap();
    Weights::open(&[path], DType::F32, &Device::Cpu).map_err(|error| error.to_string())
}

fn refused(what: &str, bytes: &[u8], part: &str) {
    match open(bytes) {
        Ok(_) => panic!("{what} was read"),
        Err(message) => {
            let format = "is damaged or not a PyTorch file of nothing but tensors";
            assert!(
                message.contains("weights.bin") && message.contains(format),
                "{what}: {message}"
            );
            assert!(message.contains(part), "{what}: {message}");
        }
    }
}

/// A tensor as it is described, and what is said of it.
type Case<'a> = (Storage<'a>, i64, &'a [i64], &'a [i64], &'a str);

/// Four numbers for most of the tests.
fn storage() -> Vec<u8> {
    floats(&[1.0, 2.0, 3.0, 4.0])
}

/// `{"a": ...}`, with what `value` writes.
fn with_value(value: impl Fn(Pickle) -> Pickle) -> Vec<u8> {
    value(Pickle::start().raw("}").text("a")).raw("s").end()
}

fn good_pickle() -> Vec<u8> {
    with_value(|p| p.tensor(("FloatStorage", "0", 4), 0, &[2, 2], &[2, 1]))
}

#[test]
fn code_is_never_run_and_named() {
    let call = |module: &str, name: &str| {
        let p = Pickle::start().global(module, name);
        p.raw("(").text("echo hello").raw("tR").end()
    };
    let objects = |instruction: &[u8]| {
        let p = Pickle::start()
            .raw("(")
            .global("collections", "OrderedDict");
        p.raw(instruction).end()
    };
    let state = with_value(|p| {
        p.tensor(("FloatStorage", "0", 4), 0, &[2, 2], &[2, 1])
            .raw("}b")
    });
    for (pickle, named) in [
        (call("os", "system"), "os.system"),
        (call("builtins", "eval"), "builtins.eval"),
        (call("torch", "load"), "torch.load"),
        (call("torch", "QInt8Storage"), "torch.QInt8Storage"),
        (
            call("torch._utils", "_rebuild_wrapper_subclass"),
            "torch._utils._rebuild_wrapper_subclass",
        ),
        (
            call("numpy.core.multiarray", "_reconstruct"),
            "numpy.core.multiarray._reconstruct",
        ),
        (
            Pickle::start().raw("(ios\nsystem\n").end(),
            "instruction INST",
        ),
        (objects(b"o"), "instruction OBJ"),
        (objects(b")\x81"), "instruction NEWOBJ"),
        (objects(b"\x93"), "instruction STACK_GLOBAL"),
        (objects(b"\x82\x01"), "instruction EXT"),
        (state, "instruction BUILD"),
    ] {
        let part = format!("it asks for code this program never runs ({named})");
        refused(named, &checkpoint(pickle, &[("0", storage())]), &part);
    }
}

#[test]
fn tensors_lie_inside_their_storage() {
    const MAX: i64 = i64::MAX;
    const WHOLE: Storage<'static> = ("FloatStorage", "0", 4);
    let float = |len: i64| ("FloatStorage", "0", len);
    let cases: &[Case<'_>] = &[
        (
            float(5),
            0,
            &[5],
            &[1],
            "a storage of 16 bytes that should hold 5 numbers",
        ),
        (float(3), 0, &[3], &[1], "should hold 3 numbers"),
        (
            ("HalfStorage", "0", 4),
            0,
            &[4],
            &[1],
            "should hold 4 numbers of 2 bytes",
        ),
        (float(-4), 0, &[4], &[1], "it declares -4 numbers"),
        (
            float(MAX),
            0,
            &[4],
            &[1],
            "should hold 9223372036854775807 numbers",
        ),
        // Sizes, places and strides below zero.
        (WHOLE, 0, &[-2, 2], &[2, 1], "a size of -2"),
        (WHOLE, -1, &[2], &[1], "a size of -1"),
        (WHOLE, 3, &[4], &[-1], "a size of -1"),
        // Beyond the end, by one and by sums that overflow.
        (WHOLE, 0, &[5], &[1], "beyond the 4 numbers"),
        (WHOLE, 3, &[2], &[1], "beyond the 4 numbers"),
        (WHOLE, 0, &[MAX, MAX, 4], &[1, 1, 1], "beyond the 4 numbers"),
        (WHOLE, MAX, &[2], &[MAX], "beyond the 4 numbers"),
        (WHOLE, 0, &[3, 3], &[MAX, MAX], "beyond the 4 numbers"),
        (WHOLE, 0, &[2, 2], &[1], "beyond the 4 numbers"),
        (WHOLE, 0, &[1_000_000, 4], &[0, 1], "repeat numbers"),
        (WHOLE, 0, &[1; 9], &[1; 9], "9 dimensions"),
        (
            ("FloatStorage", "1", 4),
            0,
            &[4],
            &[1],
            "m/data/1 is missing",
        ),
        (
            ("FloatStorage", "../x", 4),
            0,
            &[4],
            &[1],
            "under ../x, which is no plain name",
        ),
        (("FloatStorage", "", 4), 0, &[4], &[1], "no plain name"),
    ];
    for &(storage_is, offset, shape, strides, part) in cases {
        let pickle = with_value(|p| p.tensor(storage_is, offset, shape, strides));
        refused(part, &checkpoint(pickle, &[("0", storage())]), part);
    }
}

#[test]
fn a_damaged_description_is_refused_in_words() {
    let tensor = |p: Pickle| p.tensor(("FloatStorage", "0", 4), 0, &[4], &[1]);
    let deep = 100_000;
    let lists = with_value(|p| p.raw(vec![b']'; deep]).raw(vec![b'a'; deep - 1]));
    let tuples = with_value(|p| p.raw(")").raw(vec![0x85u8; deep]));
    let doubled = with_value(|p| p.raw(")").raw(b"q\x00h\x00\x86".repeat(60)));
    let cases = [
        ("lists in lists", lists, "makes more than 262144 values"),
        ("tuples in tuples", tuples, "a is no tensor"),
        ("a tuple of 2^60 parts", doubled, "a is no tensor"),
        (
            "marks in marks",
            Pickle::start().raw(vec![b'('; deep]).end(),
            "a value that is not there",
        ),
        (
            "a dict in itself",
            Pickle::start().raw("}q\x05").text("a").raw("h\x05s").end(),
            "a is no tensor",
        ),
        (
            "too many instructions",
            Pickle::start()
                .raw(b"]".repeat(2))
                .raw(b"Na".repeat(1 << 19))
                .end(),
            "makes more than 262144 values",
        ),
        // Values that take many times the room of their instructions.
        (
            "too many values",
            Pickle::start().raw(vec![b'N'; 1 << 20]).end(),
            "makes more than 262144 values",
        ),
        (
            "too many tuples",
            Pickle::start().raw(b")").raw(vec![0x85; 1 << 20]).end(),
            "makes more than 262144 values",
        ),
        (
            "too many dicts",
            Pickle::start().raw(b"]").raw(b"}a".repeat(1 << 19)).end(),
            "makes more than 262144 values",
        ),
        (
            "too many entries",
            Pickle::start().raw(b"}").raw(b"NNs".repeat(1 << 18)).end(),
            "makes more than 262144 values",
        ),
        (
            "a long text",
            with_value(|p| p.raw(b"X\xff\xff\xff\xff")),
            "4294967295 bytes are declared where 2 are left",
        ),
        (
            "a long number",
            with_value(|p| p.raw(b"\x8a\xff")),
            "255 bytes are declared",
        ),
        (
            "a number of nine bytes",
            with_value(|p| p.raw(b"\x8a\x09123456789")),
            "a whole number of 9 bytes",
        ),
        (
            "a very long number",
            with_value(|p| p.raw(b"\x8b\xff\xff\xff\x7f")),
            "instruction 0x8b at byte",
        ),
        (
            "a value never stored",
            with_value(|p| p.raw(b"h\x07")),
            "fetches value 7",
        ),
        (
            "a far value never stored",
            with_value(|p| p.raw(b"j\xff\xff\xff\xff")),
            "fetches value 4294967295",
        ),
        (
            "text that is none",
            with_value(|p| p.raw(b"X\x01\x00\x00\x00\xff")),
            "not UTF-8",
        ),
        (
            "a name without an end",
            Pickle::start().raw("c").raw(vec![b'x'; 300]).end(),
            "the name is too long",
        ),
        ("another protocol", b"\x80\x04}.".to_vec(), "protocol 2"),
        (
            "an empty stack",
            Pickle::start().end(),
            "a value that is not there",
        ),
        (
            "entries in a list",
            Pickle::start().raw("]").text("a").raw("Ns").end(),
            "in what is no dict",
        ),
        (
            "values in a dict",
            Pickle::start().raw("}Na").end(),
            "to what is no list",
        ),
        (
            "a name alone",
            Pickle::start().raw("}(").text("a").raw("u").end(),
            "a name without a value",
        ),
        (
            "no dict, no list",
            Pickle::start().raw("N").end(),
            "no dict of tensors",
        ),
        (
            "an empty list",
            Pickle::start().raw("]").end(),
            "it holds no tensors",
        ),
        (
            "nothing",
            Pickle::start().raw("}").end(),
            "it holds no tensors",
        ),
        (
            "a number for a tensor",
            with_value(|p| p.number(3)),
            "a is no tensor",
        ),
        (
            "a name twice",
            tensor(
                tensor(Pickle::start().raw("}").text("a"))
                    .raw("s")
                    .text("a"),
            )
            .raw("s")
            .end(),
            "a is stored twice",
        ),
        (
            "more after the end",
            [good_pickle(), b"N".to_vec()].concat(),
            "goes on after its end",
        ),
        (
            "a call of a tensor",
            with_value(|p| tensor(p).raw(")R")),
            "in a way torch.save never does",
        ),
    ];
    for (what, pickle, part) in cases {
        refused(what, &checkpoint(pickle, &[("0", storage())]), part);
    }
    // Cut anywhere.
    let good = good_pickle();
    for length in 0..good.len() {
        refused(
            &format!("{length} bytes of a description"),
            &checkpoint(good[..length].to_vec(), &[("0", storage())]),
            "description",
        );
    }
    // What torch keeps beside the weights is passed over.
    let notes = Pickle::start()
        .raw("}(")
        .text("_metadata")
        .raw("}")
        .text("x._extra_state")
        .raw("N");
    let notes = tensor(notes.text("a")).raw("u").end();
    let weights = open(&checkpoint(notes, &[("0", storage())])).unwrap();
    assert_eq!(
        weights.get("a", &[4]).unwrap().to_vec1::<f32>().unwrap(),
        [1.0, 2.0, 3.0, 4.0]
    );
}

#[test]
fn a_damaged_archive_is_refused_in_words() {
    let order = |order: &[u8]| ("m/byteorder", order.to_vec());
    let (description, data) = (("m/data.pkl", good_pickle()), ("m/data/0", storage()));
    let entries = [description.clone(), order(b"little"), data.clone()];
    let style = |method: u16, flags: u16, wide: bool| Style {
        method,
        flags,
        wide,
    };
    for wide in [false, true] {
        let weights = open(&archive(&entries, style(0, 0, wide))).unwrap();
        let read = weights.get("a", &[2, 2]).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(read, [[1.0, 2.0], [3.0, 4.0]], "wide {wide}");
    }
    let with = |more: (&'static str, Vec<u8>)| {
        let all = [&entries[..], &[more]].concat();
        archive(&all, Style::default())
    };
    let good = archive(&entries, Style::default());
    let patched = |from_end: usize, bytes: &[u8]| {
        let mut archive = good.clone();
        let at = archive.len() - from_end;
        archive[at..at + bytes.len()].copy_from_slice(bytes);
        archive
    };
    let old = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    for (what, bytes, part) in [
        (
            "text",
            b"these are not the weights you look for".to_vec(),
            "no zip archive",
        ),
        ("nothing", Vec::new(), "no zip archive"),
        (
            "the old format",
            old.to_vec(),
            "before 1.6; load it with a newer PyTorch",
        ),
        (
            "a compressed file",
            archive(&entries, style(8, 0, false)),
            "compressed, which torch.save never does",
        ),
        (
            "an encrypted file",
            archive(&entries, style(0, 1, false)),
            "encrypted",
        ),
        (
            "a program",
            with(("m/code/__torch__.py", Vec::new())),
            "TorchScript program; save its state_dict()",
        ),
        (
            "constants",
            with(("m/constants.pkl", Vec::new())),
            "TorchScript program",
        ),
        (
            "two descriptions",
            with(("n/data.pkl", good_pickle())),
            "one data.pkl",
        ),
        ("one name twice", with(data.clone()), "m/data/0 twice"),
        (
            "no description",
            archive(slice::from_ref(&data), Style::default()),
            "one data.pkl",
        ),
        (
            "big numbers",
            archive(&[description, order(b"big"), data], Style::default()),
            "big-endian",
        ),
        (
            "a comment",
            [&good[..], b"x"].concat(),
            "cut off or no zip archive",
        ),
        (
            "another count",
            patched(12, &[9, 0]),
            "directory is damaged",
        ),
        (
            "a far directory",
            patched(6, &[0xff; 4]),
            "directory is damaged",
        ),
        (
            "a far zip64 record",
            patched(22 + 12, &[0xff; 8]),
            "directory is damaged",
        ),
        (
            "exabytes of directory",
            patched(22 + 20 + 16, &[0xff; 8]),
            "directory is damaged",
        ),
    ] {
        refused(what, &bytes, part);
    }
    for length in 0..good.len() {
        refused(
            &format!("{length} bytes of an archive"),
            &good[..length],
            "no zip archive",
        );
    }
}
