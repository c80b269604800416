//! FFmpeg calls that ffmpeg-next does not wrap, or wraps in a way that trusts the file.

use std::ffi::{CStr, CString, c_int, c_void};
use std::fs::File;
use std::ptr;
use std::sync::OnceLock;

use ffmpeg_next::codec::Parameters;
use ffmpeg_next::format::context::{Input, StreamIo};
use ffmpeg_next::software::scaling;
use ffmpeg_next::{Error, ffi};

use super::MAX_RECIPE_BYTES;

/// Container readers that are not for us: lists that open other files or addresses, scripts, pictures by file
/// name pattern, live input, and text.
const REFUSED_READERS: [&str; 24] = [
    "applehttp",
    "avisynth",
    "concat",
    "concatf",
    "dash",
    "dvbtxt",
    "ffmetadata",
    "hls",
    "image2",
    "image2pipe",
    "imf",
    "lavfi",
    "rtp",
    "rtsp",
    "sap",
    "sbg",
    "sdp",
    "subfile",
    "svg_pipe",
    "tty",
    "txt",
    "vapoursynth",
    "webm_dash_manifest",
    "xbin",
];

/// FFmpeg's names of all container readers except the refused ones, joined by commas: its `format_whitelist`.
pub(super) fn allowed_readers() -> &'static str {
    static LIST: OnceLock<String> = OnceLock::new();
    LIST.get_or_init(|| {
        let mut names = Vec::new();
        let mut position = ptr::null_mut();
        loop {
            // SAFETY: the iterator's state belongs to FFmpeg and is only passed back; the formats it returns are
            // static, and their names are NUL-terminated static strings.
            let name = unsafe {
                let format = ffi::av_demuxer_iterate(&raw mut position);
                if format.is_null() {
                    break;
                }
                CStr::from_ptr((*format).name)
            };
            let name = name.to_string_lossy().into_owned();
            if !name.split(',').any(|n| REFUSED_READERS.contains(&n)) {
                names.push(name);
            }
        }
        names.join(",")
    })
}

/// A closure that may be called while FFmpeg reads, without its lifetime.
pub(super) struct Interrupt(*const (dyn Fn() -> bool + 'static));

// SAFETY: FFmpeg asks the interrupt callback on the thread that called it, which is the thread that lent the closure.
unsafe impl Send for Interrupt {}

impl Interrupt {
    /// Forgets how long `cancel` lives.
    ///
    /// # Safety
    /// The value, and the input it is given to, must be dropped before `cancel` goes out of scope, on its thread.
    pub(super) unsafe fn new(cancel: &dyn Fn() -> bool) -> Self {
        // SAFETY: only the lifetime changes; the caller promises not to outlive it.
        Self(unsafe {
            std::mem::transmute::<*const (dyn Fn() -> bool + '_), *const (dyn Fn() -> bool + 'static)>(
                ptr::from_ref(cancel),
            )
        })
    }

    pub(super) fn cancelled(&self) -> bool {
        // SAFETY: alive by the promise made to `new`.
        unsafe { (*self.0)() }
    }
}

/// Most bytes of a film that are read at once.
const MAX_READ_BYTES: c_int = 256 << 10;

type ReadPacket = unsafe extern "C" fn(*mut c_void, *mut u8, c_int) -> c_int;

/// How ffmpeg-next reads a [`File`].
static READ_FILE: OnceLock<ReadPacket> = OnceLock::new();

/// Lets FFmpeg read a file, in pieces.
///
/// A reader of FFmpeg asks for as many bytes as a film states, and ffmpeg-next clears that much memory before it reads: a
/// film of 3 kB could ask for two gigabytes. A read may give less than it was asked for; FFmpeg then asks again.
///
/// # Errors
/// When there is no memory.
pub(super) fn reader(file: File) -> Result<StreamIo, Error> {
    let mut io = StreamIo::from_read_seek(file)?;
    // SAFETY: the context is alive as long as `io`, and nothing reads from it yet. The function that is put aside is that of
    // every `File`, so that `read_piece` may call it for any context made here.
    unsafe {
        let context = io.as_mut_ptr();
        if let Some(read) = (*context).read_packet {
            READ_FILE.get_or_init(|| read);
            (*context).read_packet = Some(read_piece);
        }
    }
    Ok(io)
}

unsafe extern "C" fn read_piece(opaque: *mut c_void, buffer: *mut u8, size: c_int) -> c_int {
    match READ_FILE.get() {
        // SAFETY: FFmpeg's own arguments, and fewer bytes than the buffer holds.
        Some(read) => unsafe { read(opaque, buffer, size.min(MAX_READ_BYTES)) },
        None => ffi::AVERROR_EOF,
    }
}

/// Longest metadata value that is taken over, in bytes: one more than a recipe may have. A damaged film may state a value
/// of any length, and FFmpeg hands it out.
const MAX_VALUE_BYTES: usize = MAX_RECIPE_BYTES + 1;

/// A metadata value of the whole file (`stream: None`) or of one stream, with broken UTF-8 replaced.
///
/// ffmpeg-next hands such values out as `&str` without checking them, and a file may hold any bytes.
pub(super) fn metadata(input: &Input, stream: Option<usize>, key: &str) -> Option<String> {
    let key = CString::new(key).ok()?;
    if stream.is_some_and(|index| index >= input.nb_streams() as usize) {
        return None;
    }
    // SAFETY: the context is open, the index was checked, and the value is copied before the context can change.
    unsafe {
        let context = input.as_ptr();
        let dictionary = match stream {
            None => (*context).metadata,
            Some(index) => (**(*context).streams.add(index)).metadata,
        };
        let entry = ffi::av_dict_get(dictionary, key.as_ptr(), ptr::null(), 0);
        if entry.is_null() {
            return None;
        }
        let value = CStr::from_ptr((*entry).value).to_bytes();
        let kept = &value[..value.len().min(MAX_VALUE_BYTES)];
        Some(String::from_utf8_lossy(kept).into_owned())
    }
}

/// Width and height that the container states for a stream, in pixels; zeros if it states none.
pub(super) fn stated_size(parameters: &Parameters) -> (u32, u32) {
    // SAFETY: the parameters are alive and only two numbers are copied.
    let (width, height) = unsafe {
        let parameters = parameters.as_ptr();
        ((*parameters).width, (*parameters).height)
    };
    (
        width.try_into().unwrap_or(0),
        height.try_into().unwrap_or(0),
    )
}

/// Colour matrices FFmpeg's scaler knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Matrix {
    Bt601,
    Bt709,
    Smpte240,
    Fcc,
    Bt2020,
}

impl Matrix {
    fn coefficients(self) -> *const c_int {
        let id = match self {
            Self::Bt601 => ffi::SWS_CS_ITU601,
            Self::Bt709 => ffi::SWS_CS_ITU709,
            Self::Smpte240 => ffi::SWS_CS_SMPTE240M,
            Self::Fcc => ffi::SWS_CS_FCC,
            Self::Bt2020 => ffi::SWS_CS_BT2020,
        };
        // SAFETY: returns a pointer into a static table for every argument.
        unsafe { ffi::sws_getCoefficients(id) }
    }
}

/// Tells a scaler which matrix and range the YUV side has. `full_range: None` keeps what the pixel format implies.
pub(super) fn set_colours(
    scaler: &mut scaling::Context,
    matrix: Matrix,
    full_range: Option<bool>,
    to_rgb: bool,
) {
    let (mut table_in, mut table_out) = (ptr::null_mut(), ptr::null_mut());
    let (mut range_in, mut range_out) = (0, 0);
    let (mut brightness, mut contrast, mut saturation) = (0, 0, 0);
    // SAFETY: the scaler is open and every pointer leads to a local of the right type. Both calls refuse formats they
    // do not apply to (RGB to RGB) and leave the scaler as it was, which is right then.
    unsafe {
        let scaler = scaler.as_mut_ptr();
        let known = ffi::sws_getColorspaceDetails(
            scaler,
            &raw mut table_in,
            &raw mut range_in,
            &raw mut table_out,
            &raw mut range_out,
            &raw mut brightness,
            &raw mut contrast,
            &raw mut saturation,
        );
        if known < 0 {
            return;
        }
        if let Some(full) = full_range {
            let yuv = if to_rgb {
                &mut range_in
            } else {
                &mut range_out
            };
            *yuv = c_int::from(full);
        }
        let (from, to) = if to_rgb {
            (matrix.coefficients(), table_out.cast_const())
        } else {
            (table_in.cast_const(), matrix.coefficients())
        };
        ffi::sws_setColorspaceDetails(
            scaler, from, range_in, to, range_out, brightness, contrast, saturation,
        );
    }
}
