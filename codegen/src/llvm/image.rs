//! Links one relocatable ELF object into a flat, position-independent code image.
//!
//! Text and read-only data are laid out one after the other with their alignment kept, and every
//! relocation between them is applied. A relocation that depends on the load address, a symbol that
//! is defined nowhere, and writable data are errors: an image is mapped read + execute and runs as
//! it stands.

mod relocation;

use std::collections::BTreeMap;

use object::read::elf::ElfFile64;
use object::{
    Object, ObjectSection, ObjectSymbol, Relocation, RelocationTarget, SectionIndex, SectionKind, SymbolKind,
};

use crate::target::CpuArch;
use relocation::{Field, Misfit};

/// Alignment that the mapping of an image must have at least; no section asks for more.
pub const IMAGE_ALIGN: u64 = 4096;

/// Machine code of one CPU level: position-independent, without relocations or writable data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeImage {
    /// Text and read-only data, to be mapped read + execute at a multiple of [`IMAGE_ALIGN`].
    pub bytes: Vec<u8>,
    /// Offset in `bytes` of each kernel's entry point, by kernel name.
    pub entries: BTreeMap<String, u64>,
}

/// Why an object cannot become a code image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The object file is malformed.
    #[error("malformed object file")]
    Object(#[from] object::Error),
    /// The code calls or reads something outside the object.
    #[error("kernel `{function}` needs the symbol `{symbol}`, which no kernel defines")]
    UndefinedSymbol {
        /// The function or section whose code refers to the symbol.
        function: String,
        /// The missing symbol.
        symbol: String,
    },
    /// A relocation that cannot be applied before the load address is known.
    #[error(
        "`{function}` has a relocation against `{symbol}` that depends on the load address: {relocation}"
    )]
    Relocation {
        /// The function or section that holds the place to relocate.
        function: String,
        /// The symbol referred to.
        symbol: String,
        /// The relocation type.
        relocation: String,
    },
    /// The distance between two places does not fit the relocated field.
    #[error(
        "`{function}` and `{symbol}` are {distance} bytes apart, which a {bits}-bit displacement cannot hold"
    )]
    TooFar {
        /// The function or section that holds the place to relocate.
        function: String,
        /// The symbol referred to.
        symbol: String,
        /// The distance in bytes.
        distance: i128,
        /// Width of the displacement, the bits that are always zero included.
        bits: u32,
    },
    /// A field counts in units that the distance is no multiple of.
    #[error(
        "`{function}` reaches `{symbol}` in units of {unit} bytes, but it lies {offset} bytes beside one"
    )]
    Unaligned {
        /// The function or section that holds the place to relocate.
        function: String,
        /// The symbol referred to.
        symbol: String,
        /// Bytes that the field counts.
        unit: u64,
        /// What is left over.
        offset: u64,
    },
    /// The object holds a loadable section that is neither code nor read-only data.
    #[error("section `{section}` holds {size} bytes of {kind:?}, only code and read-only data can be placed")]
    Section {
        /// The section's name.
        section: String,
        /// What the section holds.
        kind: SectionKind,
        /// Its size in bytes.
        size: u64,
    },
    /// A section asks for more alignment than a mapping guarantees.
    #[error("section `{section}` asks for an alignment of {align} bytes, an image has {IMAGE_ALIGN}")]
    Alignment {
        /// The section's name.
        section: String,
        /// The alignment asked for.
        align: u64,
    },
}

/// Links `object`, the bytes of a relocatable ELF file, into an image.
///
/// Every global function becomes an entry.
///
/// # Errors
/// See [`ImageError`].
pub(super) fn link(object: &[u8]) -> Result<CodeImage, ImageError> {
    let file = ElfFile64::<object::Endianness>::parse(object)?;
    // Machine code of other architectures has no relocations that are known.
    let arch = CpuArch::ALL.into_iter().find(|arch| relocation::is_of(*arch, file.architecture()));
    let layout = Layout::of(&file, arch)?;
    let mut bytes = layout.bytes.clone();
    for &(section, base) in &layout.base {
        for (offset, relocation) in file.section_by_index(section)?.relocations() {
            let place = Place { file: &file, section, offset };
            let target = layout.target(&place, &relocation)?;
            let field = arch.and_then(|arch| Field::of(arch, &relocation));
            let field = field.ok_or_else(|| place.unsupported(&target.name, &relocation))?;
            let at = usize::try_from(base + offset).expect("the offset lies inside a section in memory");
            let (bytes, _) = bytes[at..]
                .split_first_chunk_mut()
                .ok_or_else(|| place.unsupported(&target.name, &relocation))?;
            let address = i128::from(target.address) + i128::from(relocation.addend());
            field
                .write(bytes, address, i128::from(base + offset))
                .map_err(|misfit| place.misfit(target.name, misfit))?;
        }
    }
    Ok(CodeImage { bytes, entries: layout.entries(&file)? })
}

type File<'data> = ElfFile64<'data, object::Endianness>;

/// Where each section of the object starts in the image.
struct Layout {
    bytes: Vec<u8>,
    base: Vec<(SectionIndex, u64)>,
    /// What gaps are filled with: they are never executed, and a stray jump into one faults.
    padding: u8,
}

/// What a relocation refers to.
struct Target {
    name: String,
    /// Place in the image.
    address: u64,
}

impl Layout {
    /// Text sections come first, then read-only data, each in the object's order.
    fn of(file: &File<'_>, arch: Option<CpuArch>) -> Result<Layout, ImageError> {
        let padding = match arch {
            // int3
            Some(CpuArch::X86_64) => 0xcc,
            // udf #0
            Some(CpuArch::Aarch64) | None => 0,
        };
        let mut layout = Layout { bytes: Vec::new(), base: Vec::new(), padding };
        let mut data = Vec::new();
        for section in file.sections() {
            match section.kind() {
                SectionKind::Text => layout.place(&section)?,
                SectionKind::ReadOnlyData | SectionKind::ReadOnlyString => data.push(section),
                SectionKind::Metadata | SectionKind::OtherString | SectionKind::Other => {}
                kind if section.size() > 0 => {
                    return Err(ImageError::Section {
                        section: section.name()?.to_owned(),
                        kind,
                        size: section.size(),
                    });
                }
                _ => {}
            }
        }
        data.iter().try_for_each(|section| layout.place(section))?;
        Ok(layout)
    }

    fn place<'data>(&mut self, section: &impl ObjectSection<'data>) -> Result<(), ImageError> {
        let align = section.align().max(1);
        if !align.is_power_of_two() || align > IMAGE_ALIGN {
            return Err(ImageError::Alignment { section: section.name()?.to_owned(), align });
        }
        let start = (self.bytes.len() as u64).next_multiple_of(align);
        self.bytes.resize(usize::try_from(start).expect("an image fits in memory"), self.padding);
        self.bytes.extend_from_slice(section.data()?);
        self.base.push((section.index(), start));
        Ok(())
    }

    fn base_of(&self, section: SectionIndex) -> Option<u64> {
        self.base.iter().find(|(placed, _)| *placed == section).map(|(_, base)| *base)
    }

    /// What the relocation of `place` refers to; it has to lie in the image.
    fn target(&self, place: &Place<'_, '_>, relocation: &Relocation) -> Result<Target, ImageError> {
        let RelocationTarget::Symbol(index) = relocation.target() else {
            return Err(place.unsupported("(no symbol)", relocation));
        };
        let symbol = place.file.symbol_by_index(index)?;
        let name = symbol_name(place.file, &symbol)?;
        if symbol.is_undefined() {
            return Err(ImageError::UndefinedSymbol { function: place.function()?, symbol: name });
        }
        match symbol.section_index().and_then(|section| self.base_of(section)) {
            Some(base) => Ok(Target { name, address: base + symbol.address() }),
            None => Err(place.unsupported(&name, relocation)),
        }
    }

    fn entries(&self, file: &File<'_>) -> Result<BTreeMap<String, u64>, ImageError> {
        let functions =
            file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_global());
        let mut entries = BTreeMap::new();
        for symbol in functions {
            if let Some(base) = symbol.section_index().and_then(|section| self.base_of(section)) {
                entries.insert(symbol.name()?.to_owned(), base + symbol.address());
            }
        }
        Ok(entries)
    }
}

/// A place in the object that a relocation changes.
struct Place<'file, 'data> {
    file: &'file File<'data>,
    section: SectionIndex,
    offset: u64,
}

impl Place<'_, '_> {
    /// The function around the place, or the section's name if it is not code.
    fn function(&self) -> Result<String, ImageError> {
        let around = self.file.symbols().find(|symbol| {
            symbol.kind() == SymbolKind::Text
                && symbol.section_index() == Some(self.section)
                && (symbol.address()..symbol.address() + symbol.size()).contains(&self.offset)
        });
        match around {
            Some(symbol) => Ok(symbol.name()?.to_owned()),
            None => Ok(self.file.section_by_index(self.section)?.name()?.to_owned()),
        }
    }

    fn unsupported(&self, symbol: &str, relocation: &Relocation) -> ImageError {
        match self.function() {
            Ok(function) => ImageError::Relocation {
                function,
                symbol: symbol.to_owned(),
                relocation: relocation::describe(relocation),
            },
            Err(error) => error,
        }
    }

    fn misfit(&self, symbol: String, misfit: Misfit) -> ImageError {
        match (self.function(), misfit) {
            (Ok(function), Misfit::TooFar { distance, bits }) => {
                ImageError::TooFar { function, symbol, distance, bits }
            }
            (Ok(function), Misfit::Unaligned { unit, offset }) => {
                ImageError::Unaligned { function, symbol, unit, offset }
            }
            (Err(error), _) => error,
        }
    }
}

/// A symbol's name; a section symbol has the name of its section.
fn symbol_name<'data>(file: &File<'data>, symbol: &impl ObjectSymbol<'data>) -> Result<String, ImageError> {
    match (symbol.name()?, symbol.section_index()) {
        ("", Some(section)) => Ok(file.section_by_index(section)?.name()?.to_owned()),
        (name, _) => Ok(name.to_owned()),
    }
}
