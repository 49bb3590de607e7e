//! Scenes that a language model lays out in words: boxes of labelled objects, which are checked exactly, and drawn for people.

use image::{Rgb, RgbImage};
use serde_json::{Value, json};

use super::Box;

/// Pixels of a scene's side.
pub const SIDE: u32 = 512;
/// Colours of the objects of a scene, in their order.
const COLOURS: [[u8; 3]; 6] =
    [[214, 69, 65], [65, 105, 214], [70, 160, 90], [230, 160, 40], [140, 80, 170], [60, 170, 180]];

/// An object and where it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Placed {
    pub label: String,
    /// `[x1, y1, x2, y2]` in pixels, y down.
    pub at: Box,
}

/// What a language model is asked.
pub fn request(prompt: &str) -> String {
    format!(
        "Lay out a picture of {SIDE} x {SIDE} pixels for this description: {prompt}\n\
         Reply with a JSON object alone: {{\"objects\": [{{\"label\": \"...\", \"box\": [x1, y1, x2, y2]}}]}}, a box for each \
         single object, x to the right, y downwards, labels as in the description, in the singular."
    )
}

/// The first JSON object of a reply, with fences and prose around it. `None` where it has no objects with boxes in the scene.
pub fn parse(reply: &str) -> Option<Vec<Placed>> {
    let object = &reply[reply.find('{')?..];
    let scene = serde_json::Deserializer::from_str(object).into_iter::<Value>().next()?.ok()?;
    let placed = |object: &Value| {
        let at: Box = serde_json::from_value(object["box"].clone()).ok()?;
        let [x1, y1, x2, y2] = at;
        let label = object["label"].as_str()?.trim().to_owned();
        let inside = at.iter().all(|v| (0.0..=f64::from(SIDE)).contains(v)) && x1 < x2 && y1 < y2;
        (inside && !label.is_empty()).then_some(Placed { label, at })
    };
    let objects: Vec<Placed> = scene["objects"].as_array()?.iter().map(placed).collect::<Option<_>>()?;
    (!objects.is_empty()).then_some(objects)
}

/// As an entry of a detections file.
pub fn detections(objects: &[Placed]) -> Value {
    objects.iter().map(|placed| json!({"label": placed.label, "score": 1.0, "box": placed.at})).collect()
}

/// The scene with a filled box for each object, later ones in front.
pub fn draw(objects: &[Placed]) -> RgbImage {
    let mut image = RgbImage::from_pixel(SIDE, SIDE, Rgb([250; 3]));
    for (placed, colour) in objects.iter().zip(COLOURS.iter().cycle()) {
        let [x1, y1, x2, y2] = placed.at.map(|v| v.round() as u32);
        for (x, y) in (x1..x2.min(SIDE)).flat_map(|x| (y1..y2.min(SIDE)).map(move |y| (x, y))) {
            let edge = x < x1 + 3 || y < y1 + 3 || x + 3 >= x2 || y + 3 >= y2;
            image.put_pixel(x, y, Rgb(if edge { colour.map(|v| v / 2) } else { *colour }));
        }
    }
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenes_are_found_among_prose() {
        let reply = "Here it is:\n```json\n{\"objects\": [{\"label\": \"cube\", \"box\": [10, 20, 30, 50]}]}\n```";
        let scene = parse(reply).unwrap();
        assert_eq!((scene[0].label.as_str(), scene[0].at), ("cube", [10.0, 20.0, 30.0, 50.0]));
        assert_eq!(detections(&scene)[0]["score"], 1.0);
        let image = draw(&scene);
        assert_ne!(image.get_pixel(20, 30), image.get_pixel(20, 60));
        for unusable in [
            "none",
            "{\"objects\": []}",
            "{\"objects\": [{\"label\": \"cube\", \"box\": [30, 20, 10, 50]}]}",
            "{\"objects\": [{\"label\": \"cube\", \"box\": [0, 0, 10, 900]}]}",
            "{\"objects\": [{\"box\": [0, 0, 10, 10]}]}",
        ] {
            assert_eq!(parse(unusable), None, "{unusable}");
        }
    }
}
