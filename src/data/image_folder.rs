//! Directories of images.

use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::imageops::FilterType;
use image::{DynamicImage, GenericImageView, ImageError, ImageReader, Limits};

use crate::data::{Array, Dataset, Record, Source, input_file};
use crate::{Error, ErrorKind, Result, unwind};

/// The longest side of an image that is read.
const MAX_SIDE: u32 = 1 << 16;

/// Images in one directory for each class: `cats/1.png`, `dogs/1.jpg`. Classes are the names of the directories in the order
/// of their bytes, numbered from 0. Files that end in `.png`, `.jpg` or `.jpeg` are taken, in any case, in the order of their
/// names and class by class: shuffle with a buffer as long as the data. Names that begin with a dot are left out, and so is
/// what lies deeper.
///
/// Needs the feature `image`. Images are decoded when their turn comes; `prefetch` does it beside the training.
///
/// ```no_run
/// use elistimator::data::{Dtype, ImageFolder};
///
/// let images = ImageFolder::new("pets/train")?.size(64, 64);
/// println!("{:?}", images.class_names());
/// let count = images.len();
/// let batches = images.dataset().shuffle(count).batch(32).cast("image", Dtype::F32).prefetch(2);
/// # Ok::<(), elistimator::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ImageFolder {
    classes: Vec<String>,
    /// With the number of the class.
    files: Arc<Vec<(PathBuf, i64)>>,
    /// Of the names and the lengths of all files.
    checksum: u32,
    size: Option<(usize, usize)>,
    grayscale: bool,
    channels_first: bool,
    max_bytes: u64,
}

impl ImageFolder {
    /// Lists the images below this directory, without reading them.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when a directory cannot be read; [`ErrorKind::Data`] when there is no class, a class has no image, or
    /// its name is no UTF-8.
    pub fn new(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let data = |message: String| Error::new(ErrorKind::Data, message);
        let mut classes = Vec::new();
        let mut files = Vec::new();
        let mut hasher = crc32fast::Hasher::new();
        for class in sorted(dir)?.into_iter().filter(|path| path.is_dir()) {
            let name = class.file_name().and_then(|name| name.to_str());
            let name = name.ok_or_else(|| data(format!("{}: the name is no UTF-8", class.display())))?;
            let label = i64::try_from(classes.len()).unwrap_or(i64::MAX);
            let before = files.len();
            for path in sorted(&class)?.into_iter().filter(|path| is_image(path)) {
                let metadata = std::fs::metadata(&path).map_err(|error| Error::io("open", &path, error))?;
                hasher.update(path.strip_prefix(dir).unwrap_or(&path).as_os_str().as_encoded_bytes());
                hasher.update(&metadata.len().to_le_bytes());
                files.push((path, label));
            }
            if files.len() == before {
                return Err(data(format!("{}: found no image, expected .png, .jpg or .jpeg files", class.display())));
            }
            classes.push(name.to_owned());
        }
        if classes.is_empty() {
            return Err(data(format!("{}: found no directory, expected one for each class", dir.display())));
        }
        let checksum = hasher.finalize();
        Ok(Self {
            classes,
            files: Arc::new(files),
            checksum,
            size: None,
            grayscale: false,
            channels_first: false,
            max_bytes: 512 << 20,
        })
    }

    /// Makes every image so many pixels high and wide, with a triangle filter (bilinear, averaging where it shrinks);
    /// proportions are not kept. Without it images keep their sizes, and only equal ones can be batched.
    #[must_use]
    pub fn size(mut self, height: usize, width: usize) -> Self {
        self.size = Some((height, width));
        self
    }

    /// One channel, the luma of the colours (ITU-R BT.709), in place of three.
    #[must_use]
    pub fn grayscale(mut self) -> Self {
        self.grayscale = true;
        self
    }

    /// Images of shape `[channels, height, width]`, as convolutions take them, in place of `[height, width, channels]`.
    #[must_use]
    pub fn channels_first(mut self) -> Self {
        self.channels_first = true;
        self
    }

    /// The most bytes that the pixels of one image may have, decoded; 512 MiB unless set. A file of a few bytes can claim to be
    /// an image of many gigabytes. What a decoder works with comes on top: of a progressive JPEG about three times as much, and
    /// of any JPEG some rows.
    #[must_use]
    pub fn max_image_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// The names of the classes; a label is an index into them.
    pub fn class_names(&self) -> &[String] {
        &self.classes
    }

    /// The number of images.
    #[allow(clippy::len_without_is_empty)] // there is always one
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// The images as a recipe: records `{"image": u8 [height, width, channels], "label": i64}`, or with
    /// [`channels_first`](Self::channels_first). There are three channels, red,
    /// green and blue, or one; transparency is left out and turned images are not turned back. A position is reached without
    /// reading the images before it. A file that cannot be decoded is an error that names it.
    pub fn dataset(self) -> Dataset {
        Dataset::from_source(self)
    }

    fn check(&self) -> Result<()> {
        let Some((height, width)) = self.size else { return Ok(()) };
        let fits = |side: usize| (1..=MAX_SIDE as usize).contains(&side);
        if fits(height) && fits(width) {
            return Ok(());
        }
        let message = format!("images cannot be made {height} by {width}: expected sides from 1 to {MAX_SIDE}");
        Err(Error::new(ErrorKind::InvalidArgument, message))
    }

    fn record(&self, path: &Path, label: i64) -> Result<Record> {
        let decoded = unwind::catch(|| self.decode(path))
            .unwrap_or_else(|panic| Err(Error::new(ErrorKind::Corrupt, format!("the decoder failed: {panic}"))));
        let image = decoded.map_err(|error| error.at(path.display()))?;
        Ok(Record::new().with("image", image).with("label", label))
    }

    fn decode(&self, path: &Path) -> Result<Array> {
        let mut reader = ImageReader::new(BufReader::new(input_file::open(path)?));
        let mut limits = Limits::no_limits();
        limits.max_image_width = Some(MAX_SIDE);
        limits.max_image_height = Some(MAX_SIDE);
        limits.max_alloc = Some(self.max_bytes);
        reader.limits(limits);
        // What a file is, its contents say; names are often wrong.
        let reader = reader.with_guessed_format().map_err(|error| input_file::read_error(path, error))?;
        let image = self.resize(reader.decode().map_err(image_error)?)?;
        let (height, width) = (image.height() as usize, image.width() as usize);
        let image = if self.grayscale {
            Array::new([height, width, 1], image.into_luma8().into_raw())?
        } else {
            Array::new([height, width, 3], image.into_rgb8().into_raw())?
        };
        if self.channels_first { image.transpose(&[2, 0, 1]) } else { Ok(image) }
    }

    fn resize(&self, image: DynamicImage) -> Result<DynamicImage> {
        let side = |side: usize| u32::try_from(side).unwrap_or(MAX_SIDE);
        let Some((height, width)) = self.size.map(|(height, width)| (side(height), side(width))) else {
            return Ok(image);
        };
        if image.dimensions() == (width, height) {
            return Ok(image);
        }
        // Columns are resized first, into four f32 a pixel.
        let between = u64::from(image.width().max(width)).saturating_mul(u64::from(height)).saturating_mul(16);
        if between > self.max_bytes {
            let message = format!(
                "resizing {} by {} to {height} by {width} takes {between} bytes, more than the {} that are set \
                 (`max_image_bytes`)",
                image.height(),
                image.width(),
                self.max_bytes
            );
            return Err(Error::new(ErrorKind::Data, message));
        }
        // Of 8 bits, so that an image of 16 is not resized at twice the cost to be cut down afterwards.
        let image = if self.grayscale { image.into_luma8().into() } else { image.into_rgb8().into() };
        Ok(DynamicImage::resize_exact(&image, width, height, FilterType::Triangle))
    }
}

impl Source for ImageFolder {
    fn len(&self) -> Option<u64> {
        Some(self.files.len() as u64)
    }

    fn open(&self, position: u64) -> Result<Box<dyn Iterator<Item = Result<Record>> + Send>> {
        self.check()?;
        let folder = self.clone();
        let start = usize::try_from(position).unwrap_or(usize::MAX).min(folder.files.len());
        Ok(Box::new((start..folder.files.len()).map(move |index| {
            let (path, label) = &folder.files[index];
            folder.record(path, *label)
        })))
    }

    fn describe(&self) -> String {
        let size = self.size.map_or(String::new(), |(height, width)| format!("; {height} by {width}"));
        let grey = if self.grayscale { "; grayscale" } else { "" };
        let first = if self.channels_first { "; channels first" } else { "" };
        format!(
            "images({} examples in {} classes crc {:08x}{size}{grey}{first})",
            self.files.len(),
            self.classes.len(),
            self.checksum
        )
    }
}

/// What is in a directory and not hidden, by name.
fn sorted(dir: &Path) -> Result<Vec<PathBuf>> {
    let list = |error| Error::io("list", dir, error);
    let entries = std::fs::read_dir(dir).map_err(list)?;
    let mut paths = entries.map(|entry| Ok(entry.map_err(list)?.path())).collect::<Result<Vec<_>>>()?;
    paths.retain(|path| path.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b".")));
    paths.sort();
    Ok(paths)
}

fn is_image(path: &Path) -> bool {
    let known = |extension: &str| ["png", "jpg", "jpeg"].iter().any(|known| extension.eq_ignore_ascii_case(known));
    path.extension().and_then(|extension| extension.to_str()).is_some_and(known)
}

fn image_error(error: ImageError) -> Error {
    let kind = match &error {
        ImageError::IoError(error) => input_file::read_error_kind(error),
        ImageError::Unsupported(_) => ErrorKind::Unsupported,
        ImageError::Limits(_) => ErrorKind::Data,
        _ => ErrorKind::Corrupt,
    };
    Error::with_source(kind, "cannot decode the image", error)
}
