//! Fields of instructions and of data that hold a distance inside of an image.
//!
//! A page of aarch64 is 4096 bytes whatever the operating system maps at once, and images lie at multiples of
//! [`IMAGE_ALIGN`](super::IMAGE_ALIGN): the low bits of an address are those of its place in the image.
//!
//! Source: "ELF for the Arm 64-bit Architecture (AArch64)", sections "Static Data relocations" and "Static AArch64
//! relocations"; "System V Application Binary Interface, AMD64", table 4.10.

use object::{Architecture, Relocation, RelocationFlags, RelocationKind, elf};

use crate::target::CpuArch;

/// Bytes of a page, to whose begin `adrp` computes the distance.
const PAGE: i128 = 4096;

/// A field of 32 bits or of an instruction of so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    /// All 32 bits: the distance.
    Distance,
    /// `b` and `bl`: the distance in instructions.
    Branch,
    /// `adr`: the distance.
    Adr,
    /// `adrp`: the distance of pages.
    Page,
    /// `add`, loads and stores: the place in the page, in units of this many bytes.
    InPage(u64),
}

/// Why a field cannot hold a distance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Misfit {
    TooFar { distance: i128, bits: u32 },
    Unaligned { unit: u64, offset: u64 },
}

/// Whether objects of this kind hold machine code of `arch`.
pub(super) fn is_of(arch: CpuArch, found: Architecture) -> bool {
    match arch {
        CpuArch::X86_64 => found == Architecture::X86_64,
        CpuArch::Aarch64 => found == Architecture::Aarch64,
    }
}

/// The relocation in words.
pub(super) fn describe(relocation: &Relocation) -> String {
    match (relocation.kind(), relocation.flags()) {
        (RelocationKind::Unknown, RelocationFlags::Elf { r_type }) => format!("type {r_type}"),
        (kind, _) => format!("{kind:?} of {} bits", relocation.size()),
    }
}

impl Field {
    /// The field that a relocation is for; none if its value depends on the load address or is of no known kind.
    pub(super) fn of(arch: CpuArch, relocation: &Relocation) -> Option<Field> {
        let is_relative = matches!(relocation.kind(), RelocationKind::Relative | RelocationKind::PltRelative);
        let RelocationFlags::Elf { r_type } = relocation.flags() else { return None };
        match arch {
            CpuArch::X86_64 => (is_relative && relocation.size() == 32).then_some(Field::Distance),
            CpuArch::Aarch64 => match r_type {
                elf::R_AARCH64_PREL32 => Some(Field::Distance),
                elf::R_AARCH64_CALL26 | elf::R_AARCH64_JUMP26 => Some(Field::Branch),
                elf::R_AARCH64_ADR_PREL_LO21 => Some(Field::Adr),
                elf::R_AARCH64_ADR_PREL_PG_HI21 => Some(Field::Page),
                elf::R_AARCH64_ADD_ABS_LO12_NC | elf::R_AARCH64_LDST8_ABS_LO12_NC => Some(Field::InPage(1)),
                elf::R_AARCH64_LDST16_ABS_LO12_NC => Some(Field::InPage(2)),
                elf::R_AARCH64_LDST32_ABS_LO12_NC => Some(Field::InPage(4)),
                elf::R_AARCH64_LDST64_ABS_LO12_NC => Some(Field::InPage(8)),
                elf::R_AARCH64_LDST128_ABS_LO12_NC => Some(Field::InPage(16)),
                _ => None,
            },
        }
    }

    /// Sets the field in `bytes`, which lie at `place`, to reach `target`; both are places in the image.
    pub(super) fn write(self, bytes: &mut [u8; 4], target: i128, place: i128) -> Result<(), Misfit> {
        let old = u32::from_le_bytes(*bytes);
        let new = match self {
            Field::Distance => signed(target - place, 32, 1)?,
            Field::Branch => old & !0x03ff_ffff | signed(target - place, 28, 4)?,
            Field::Adr => old & !ADR_BITS | adr_field(signed(target - place, 21, 1)?),
            Field::Page => {
                let pages = |address: i128| address.div_euclid(PAGE) * PAGE;
                old & !ADR_BITS | adr_field(signed(pages(target) - pages(place), 33, PAGE)?)
            }
            Field::InPage(unit) => {
                let within = target.rem_euclid(PAGE) as u64;
                if !within.is_multiple_of(unit) {
                    return Err(Misfit::Unaligned { unit, offset: within % unit });
                }
                old & !(0xfff << 10) | ((within / unit) as u32) << 10
            }
        };
        *bytes = new.to_le_bytes();
        Ok(())
    }
}

/// The distance in units, as the low bits of a number; `bits` is how wide a signed distance in bytes may be.
fn signed(distance: i128, bits: u32, unit: i128) -> Result<u32, Misfit> {
    let limit = 1i128 << (bits - 1);
    if !(-limit..limit).contains(&distance) {
        return Err(Misfit::TooFar { distance, bits });
    }
    if distance % unit != 0 {
        return Err(Misfit::Unaligned { unit: unit as u64, offset: distance.rem_euclid(unit) as u64 });
    }
    let width = bits - unit.trailing_zeros();
    Ok((distance / unit) as u32 & (u32::MAX >> (32 - width)))
}

/// Bits of `adr` and `adrp` that hold the distance: the lowest two apart from the others.
const ADR_BITS: u32 = 0b11 << 29 | 0x7_ffff << 5;

fn adr_field(distance: u32) -> u32 {
    (distance & 0b11) << 29 | (distance >> 2 & 0x7_ffff) << 5
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(field: Field, instruction: u32, target: i128, place: i128) -> Result<u32, Misfit> {
        let mut bytes = instruction.to_le_bytes();
        field.write(&mut bytes, target, place).map(|()| u32::from_le_bytes(bytes))
    }

    #[test]
    fn instructions_are_those_of_the_manual() {
        // bl .+8; b .-4; adr x0, .+5; adrp x1, .+0x3000; adrp x2, .-0x1000
        assert_eq!(written(Field::Branch, 0x9400_0000, 0x108, 0x100), Ok(0x9400_0002));
        assert_eq!(written(Field::Branch, 0x1400_0000, 0xfc, 0x100), Ok(0x17ff_ffff));
        assert_eq!(written(Field::Adr, 0x1000_0000, 0x105, 0x100), Ok(0x3000_0020));
        assert_eq!(written(Field::Page, 0x9000_0001, 0x3ff0, 0xffc), Ok(0xf000_0001));
        assert_eq!(written(Field::Page, 0x9000_0002, 0x0ff0, 0x1000), Ok(0xf0ff_ffe2));
        // add x0, x0, #0xff0; ldr q0, [x0, #0xff0]
        assert_eq!(written(Field::InPage(1), 0x9100_0000, 0x3ff0, 0), Ok(0x913f_c000));
        assert_eq!(written(Field::InPage(16), 0x3dc0_0000, 0x3ff0, 0), Ok(0x3dc3_fc00));
        // What a field held before counts for nothing.
        assert_eq!(written(Field::InPage(16), 0x3dc3_fc00, 0, 0), Ok(0x3dc0_0000));
        assert_eq!(written(Field::Distance, 7, 0x100, 0x104), Ok(0xffff_fffc));
    }

    #[test]
    fn limits_are_kept() {
        let reach = 1i128 << 27;
        assert_eq!(written(Field::Branch, 0x1400_0000, -reach, 0), Ok(0x1600_0000));
        assert_eq!(
            written(Field::Branch, 0x1400_0000, reach, 0),
            Err(Misfit::TooFar { distance: reach, bits: 28 })
        );
        let reach = 1i128 << 32;
        assert_eq!(
            written(Field::Page, 0x9000_0000, reach, 0),
            Err(Misfit::TooFar { distance: reach, bits: 33 })
        );
        assert_eq!(
            written(Field::InPage(8), 0xf940_0000, 0x1004, 0),
            Err(Misfit::Unaligned { unit: 8, offset: 4 })
        );
        assert_eq!(written(Field::Branch, 0, 2, 0), Err(Misfit::Unaligned { unit: 4, offset: 2 }));
    }
}
