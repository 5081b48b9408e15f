//! Hash slots of keys, as Redis Cluster counts them: CRC16 of the hash tag, or of the whole key.

const fn crc16_table() -> [u16; 256] {
    let mut table = [0u16; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { crc << 1 ^ 0x1021 } else { crc << 1 };
            bit += 1;
        }
        #[allow(clippy::indexing_slicing, reason = "evaluated at compile time; the loop bounds it")]
        {
            table[byte] = crc;
        }
        byte += 1;
    }
    table
}

static CRC16: [u16; 256] = crc16_table();

/// The hash slot of a key, 0 to 16383. If the key has a `{tag}` that is not empty, only the tag counts.
#[must_use]
pub fn slot_of(key: &[u8]) -> u16 {
    let hashed = tag(key).unwrap_or(key);
    let crc = hashed.iter().fold(0u16, |crc, &byte| {
        crc << 8 ^ CRC16.get(usize::from((crc >> 8) as u8 ^ byte)).copied().unwrap_or_default()
    });
    crc & 0x3FFF
}

fn tag(key: &[u8]) -> Option<&[u8]> {
    let open = key.iter().position(|&byte| byte == b'{')?;
    let rest = key.get(open + 1..)?;
    let close = rest.iter().position(|&byte| byte == b'}')?;
    rest.get(..close).filter(|tag| !tag.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis_cluster() {
        for (key, slot) in [("123456789", 0x31C3), ("foo", 12182), ("bar", 5061), ("", 0)] {
            assert_eq!(slot_of(key.as_bytes()), slot, "{key}");
        }
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"user1000"));
        assert_eq!(slot_of(b"foo{bar}{zap}"), slot_of(b"bar"));
        assert_ne!(slot_of(b"foo{}{bar}"), slot_of(b"bar"));
        assert_eq!(slot_of(b"foo{{bar}}zap"), slot_of(b"{bar"));
    }
}
