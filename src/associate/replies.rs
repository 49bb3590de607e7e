//! What language models reply to VEGA's two tasks, scored by its rules. Source: the scripts of Zhou et al. 2024.

/// The numbers that follow `before` in a text, as far as `after` follows them.
fn numbers(text: &str, before: &str, after: &str) -> Vec<u64> {
    let mut numbers = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(before) {
        let from = &rest[at + before.len()..];
        let digits = from.find(|c: char| !c.is_ascii_digit()).unwrap_or(from.len());
        match from[..digits].parse() {
            Ok(number) if from[digits..].starts_with(after) => {
                numbers.push(number);
                rest = &from[digits + after.len()..];
            }
            _ => rest = from,
        }
    }
    numbers
}

/// Image-text association: right if the reply's numbers begin with the answer's, so that more at the end do no harm, and an
/// answer without numbers is always met. A number is what follows `Picture` and one blank.
pub fn association_is_right(answer: &str, response: &str) -> bool {
    let of = |text| numbers(text, "Picture ", "");
    of(response).starts_with(&of(answer))
}

/// The images that a reply to an association names, in their order.
pub fn named(response: &str) -> Vec<u64> {
    numbers(response, "Picture ", "")
}

/// The images that a reply to interleaved image-text comprehension names: `[Picture N]`, only without any `[PictureN]`,
/// and 0 if there is none either.
pub fn named_images(response: &str) -> Vec<u64> {
    let with_blank = numbers(response, "[Picture ", "]");
    let named = if with_blank.is_empty() { numbers(response, "[Picture", "]") } else { with_blank };
    if named.is_empty() { vec![0] } else { named }
}

/// Interleaved comprehension: right if exactly one image is named, and it is number `truth`, counted from 0.
pub fn comprehension_is_right(response: &str, truth: u64) -> bool {
    named_images(response) == [truth + 1]
}
