//! Texts that are hard on a tokenizer, and texts as people write them in many scripts.

/// Named texts of a few hundred to a few thousand bytes.
pub fn all() -> Vec<(&'static str, String)> {
    let mut texts: Vec<(&'static str, String)> =
        PROSE.iter().map(|(name, text)| (*name, text.repeat(8))).collect();
    texts.extend(PATTERNS.iter().map(|(name, text)| (*name, text.repeat(60))));
    texts.push(("uuids", (0..60).map(uuid).collect::<Vec<_>>().join(",")));
    texts.push(("hex", (0..60).map(|i| format!("{:016x}", scrambled(i))).collect()));
    texts.push(("base64", (0..200).map(|i| base64_digit(scrambled(i))).collect()));
    texts.push(("control characters", (0..0x20_u8).map(char::from).collect::<String>().repeat(8)));
    texts.push(("every ASCII character", (0..0x80_u8).map(char::from).collect::<String>().repeat(4)));
    texts.push(("one letter", "a".repeat(5000)));
    texts.push(("one space", " ".repeat(5000)));
    texts.push(("one newline", "\n".repeat(2000)));
    texts.push(("every 97th character", (0..0x11_0000).step_by(97).filter_map(char::from_u32).collect()));
    texts.push(("private use", ('\u{e000}'..'\u{e200}').collect()));
    texts.push(("tags", ('\u{e0020}'..'\u{e007f}').collect::<String>().repeat(4)));
    texts.push(("compatibility forms", ('\u{fb00}'..'\u{fdff}').collect()));
    texts.push(("mathematical letters", ('\u{1d400}'..'\u{1d7ff}').collect()));
    texts.push(("empty", String::new()));
    texts
}

/// A fixed sequence without a pattern (the finaliser of SplitMix64).
fn scrambled(i: u64) -> u64 {
    let mut z = (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn uuid(i: u64) -> String {
    let (a, b) = (scrambled(i), scrambled(i + 1000));
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        a >> 32,
        a >> 16 & 0xffff,
        a & 0xffff,
        b >> 48,
        b >> 16 & 0xffff_ffff_ffff
    )
}

fn base64_digit(z: u64) -> char {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char::from(DIGITS[(z % 64) as usize])
}

const PROSE: [(&str, &str); 22] = [
    (
        "English",
        "The committee met on Tuesday and agreed, after some debate, that nobody had read the report. ",
    ),
    (
        "German",
        "Die Donaudampfschifffahrtsgesellschaft beschloß gestern, daß künftig größere Schiffe fahren müssen. ",
    ),
    ("French", "L'été dernier, nous avons passé une semaine à Besançon où il n'a cessé de pleuvoir. "),
    ("Turkish", "Çekoslovakyalılaştıramadıklarımızdan mısınız, diye sordu bana; ığdır'da öğlen olmuştu. "),
    ("Vietnamese", "Tôi đã đọc quyển sách ấy từ lâu, nhưng vẫn chưa hiểu được ý nghĩa của nó. "),
    (
        "Russian",
        "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему. ",
    ),
    ("Greek", "Η γλώσσα που μιλούσαν οι αρχαίοι δεν ήταν μία, και κανείς δεν το ήξερε καλύτερα. "),
    ("Armenian", "Հայաստանի մայրաքաղաքը Երևանն է, որտեղ ապրում է ավելի քան մեկ միլիոն մարդ։ "),
    ("Georgian", "საქართველოს დედაქალაქი თბილისია, სადაც მილიონზე მეტი ადამიანი ცხოვრობს. "),
    ("Hebrew", "בראשית ברא אלהים את השמים ואת הארץ והארץ היתה תהו ובהו וחשך על פני תהום. "),
    ("Arabic", "إِنَّ الْحَيَاةَ مَدْرَسَةٌ، وَنَحْنُ فِيهَا تَلَامِيذُ نَتَعَلَّمُ كُلَّ يَوْمٍ شَيْئًا جَدِيدًا. "),
    ("Hindi", "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है। "),
    ("Bengali", "সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে। "),
    ("Tamil", "மனிதப் பிறிவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்; அவர்கள் சமமானவர்கள். "),
    ("Thai", "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ "),
    ("Khmer", "មនុស្សទាំងអស់កើតមកមានសេរីភាពនិងសមភាពក្នុងសេចក្ដីថ្លៃថ្នូរ។ "),
    ("Amharic", "የሰው ልጅ ሁሉ ሲወለድ ነጻና በክብርና በመብትም እኩልነት ያለው ነው። "),
    ("Chinese", "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。"),
    ("Japanese", "すべての人間は、生れながらにして自由であり、かつ、尊厳と権利とについて平等である。"),
    ("Korean", "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. "),
    ("Tibetan", "འགྲོ་བ་མིའི་རིགས་རྒྱུད་ཡོངས་ལ་སྐྱེས་ཙམ་ཉིད་ནས་ཆེ་མཐོངས་དང༌། ཐོབ་ཐངགི་རང་དབང་འདྲ་མཉམ། "),
    ("Cherokee", "ᏂᎦᏓ ᎠᏂᏴᏫ ᏂᎨᎫᏓᎸᎾ ᎠᎴ ᎤᏂᏠᏱ ᎤᎾᏕᎿ ᏚᏳᎧᏛ ᎨᏒᎢ. "),
];

const PATTERNS: [(&str, &str); 22] = [
    ("alternating letters and digits", "a1b2c3d4e5"),
    ("alternating newlines", "a\nb\n"),
    ("alternating carriage returns", "x\r\ny\r"),
    ("case that alternates", "aBcDeFgH"),
    ("punctuation", "!?.,;:'\"()[]{}<>/\\|@#$%^&*~`"),
    ("emoji sequences", "👩‍👩‍👧‍👦👨🏿‍🚀🏳️‍🌈🇩🇪🇯🇵1️⃣"),
    ("zalgo", "Z̷̢̛̻̼a̸͔͝l̵̰͊g̶̱̈́o̴̜͑"),
    ("cuneiform", "𒀀𒁀𒂀𒃀𒄀"),
    ("hieroglyphs", "𓀀𓁀𓂀𓃀"),
    ("supplementary ideographs", "𠀀𠁀𪛖"),
    ("one character of thirty-three bytes once normalised", "\u{fdfa}"),
    ("ligatures and widths", "ﬁﬀ①㍿ｶﾞＡ"),
    ("composition exclusions", "\u{0958}\u{fb2c}\u{1d160}"),
    ("lone combining marks", "\u{0301}\u{0e31}\u{093f}"),
    ("zero widths", "\u{200b}\u{200d}\u{feff}\u{2060}"),
    ("directions", "\u{202e}abc\u{202c}\u{2066}"),
    ("mixed spaces", " \t \n  \u{a0}\u{3000}\u{2003}"),
    ("special tokens", "<|endoftext|><|im_start|>system<|im_sep|><|fim_prefix|>"),
    ("escapes as text", "\\u0041\\n\\t\\\\\\\""),
    ("Rust", "fn f<T: Into<u64>>(x: &[T]) -> Option<u64> {\n    x.iter().map(|v| v.into()).max()\n}\n"),
    ("JSON in text", "{\"id\":12345,\"tags\":[\"a\",\"b\"],\"nested\":{\"x\":null,\"y\":1.5e-7}}"),
    (
        "minified script",
        "!function(e,t){\"object\"==typeof exports?module.exports=t():e.X=t()}(this,(()=>{}));",
    ),
];
