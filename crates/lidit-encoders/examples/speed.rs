#![allow(missing_docs, clippy::pedantic, clippy::unwrap_used)]
use burn::tensor::Device;
use lidit_encoders::*;
use std::time::Instant;
fn main() {
    let home = std::env::var("HOME").unwrap();
    let n: usize = std::env::args().nth(1).map_or(128, |v| v.parse().unwrap());
    let caps: Vec<String> = (0..n)
        .map(|i| {
            format!(
                "a flat cartoon emoji of {} {} number {i}",
                ["beetle, animal, bug", "red apple, fruit", "smiling face"][i % 3],
                "x"
            )
        })
        .collect();
    let caps: Vec<&str> = caps.iter().map(|s| s.as_str()).collect();
    for m in ["SmolLM2-135M-Instruct.Q4_1.gguf", "gemma-3-270m-q4_k_m.gguf"] {
        let path = format!("{home}/.cache/lidit/models/{m}");
        let t = Instant::now();
        let f = gguf::GgufFile::open(path.as_ref()).unwrap();
        let t_open = t.elapsed();
        let t = Instant::now();
        let d = f.digest().unwrap();
        let t_dig = t.elapsed();
        let t = Instant::now();
        let _tok = Tokenizer::from_gguf(&f).unwrap();
        let t_tok = t.elapsed();
        let t = Instant::now();
        let template = TemplateConfig{ instruction: Some(Instruction{system_prompt:"You are a helpful assistant.".into(), instruction:"Describe the image by detailing the color, shape, size, texture, quantity, text, and spatial relationships of the objects:".into()}), max_caption_tokens: 64};
        let e = PromptEncoder::load(path.as_ref(), -3, template, Precision::F32, &Device::flex()).unwrap();
        println!(
            "{m}: open {t_open:?} digest {t_dig:?} tok {t_tok:?} load {:?} {}",
            t.elapsed(),
            &d[..8]
        );
        e.encode(&caps[..8]).unwrap();
        for _ in 0..2 {
            let t = Instant::now();
            let r = e.encode(&caps).unwrap();
            let dt = t.elapsed().as_secs_f64();
            let toks: usize = r.iter().map(|r| r.ids.len()).sum();
            let fl: u64 = r
                .iter()
                .map(|r| cost::flops(e.llm().config(), e.llm().depth(), r.ids.len()))
                .sum();
            println!(
                "  {n} captions, {toks} tokens ({:.1} each): {dt:.2} s = {:.1} captions/s, {:.0} GFLOPS",
                toks as f64 / n as f64,
                n as f64 / dt,
                fl as f64 / dt / 1e9
            );
        }
    }
}
