//! `--grid`: images for each value of an axis, and their sheet.

use image::GenericImageView as _;

use super::{draw_with, generate, one, pixels, refuses};
use crate::{bytes, parity};

#[test]
fn cells_are_the_images_of_plain_commands_and_the_sheet_has_them_all() {
    let dir = tempfile::tempdir().unwrap();
    let (out, alone) = (dir.path().join("out"), dir.path().join("alone"));
    let lora = parity("cases/sample_sd1_lora/lora.safetensors");
    let mut command = generate(&out);
    command
        .args(["--prompt", "a cat", "--seed", "5", "--grid", "scale=0.5,2", "--grid", "steps=1,3"])
        .arg("--lora")
        .arg(&lora);
    let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
    assert!(said.trim_end().ends_with("grid.png"), "{said}");
    let cell = |number: usize| pixels(&bytes(out.join(format!("{number:05}.png"))));
    for (number, [scale, steps]) in [["0.5", "1"], ["2", "1"], ["0.5", "3"], ["2", "3"]].into_iter().enumerate() {
        let mut command = draw_with("tiny-sd1", steps, &alone);
        command.args(["--prompt", "a cat", "--seed", "5"]);
        command.arg("--lora").arg(format!("{}:{scale}", lora.display()));
        assert!(one(&mut command, &alone) == cell(number), "scale {scale}, {steps} steps");
    }
    let rows = std::fs::read_to_string(out.join("metadata.jsonl")).unwrap();
    let second: serde_json::Value = serde_json::from_str(rows.lines().nth(1).unwrap()).unwrap();
    assert_eq!((&second["loras"][0]["scale"], &second["steps"]), (&2.0.into(), &1.into()));
    // Each cell is enlarged on the sheet, pixel by pixel.
    let sheet = image::open(out.join("grid.png")).unwrap().into_rgb8();
    let first = image::load_from_memory(&bytes(out.join("00000.png"))).unwrap().into_rgb8();
    let (width, height) = first.dimensions();
    let large = image::imageops::resize(&first, 4 * width, 4 * height, image::imageops::FilterType::Nearest);
    let found = (0..sheet.width() - large.width()).any(|x| {
        (0..sheet.height() - large.height()).any(|y| {
            let part = image::imageops::crop_imm(&sheet, x, y, large.width(), large.height());
            (0..large.height())
                .all(|dy| (0..large.width()).all(|dx| part.get_pixel(dx, dy) == *large.get_pixel(dx, dy)))
        })
    });
    assert!(found, "the first cell is not on the sheet");
    let again = |options: &[&str]| {
        let mut command = generate(&out);
        command.args(["--prompt", "a cat", "--grid", "seed=1,2"]).args(options);
        command
    };
    refuses(&mut again(&[]), 1, &["grid.png", "--overwrite"]);
    again(&["--overwrite"]).assert().success();
    assert!(cell(0) != cell(1));
    refuses(&mut again(&["--grid", "stepz=1"]), 2, &["stepz", "steps"]);
    refuses(&mut again(&["--grid", "scale=1"]), 2, &["no LoRA"]);
}
