"""Words too common to search for, in Spanish and English, with their accents."""

from __future__ import annotations

SPANISH_TEXT = """
a al algo alguna algunas alguno algunos ante antes aquel aquella aquellas aquello aquellos aquí
así aun aunque aún bajo bien cada casi como con contra cual cuales cualquier cuando cuanta
cuantas cuanto cuantos cuál cuáles cuándo cuánta cuántas cuánto cuántos cómo de del desde donde
dos durante dónde e el ella ellas ello ellos en entonces entre era erais eran eras eres es esa
esas ese eso esos esta estaba estaban estado estamos estar estas este esto estos estoy está
están estás fue fueron fui fuimos ha haber habéis había habían hace hacen hacer hacia han has
hasta hay haya he hemos hizo hubo incluso jamás la las le les lo los luego mas me mi mientras
mis misma mismas mismo mismos mucha muchas mucho muchos muy más mí mía mías mío míos nada ni
ninguna ninguno ningún no nos nosotras nosotros nuestra nuestras nuestro nuestros nunca o os
otra otras otro otros para pero poca pocas poco pocos por porque pudo puede pueden puedo pues
que quien quienes quién quiénes qué sea sean ser será serán sería si sido siempre siendo sin
sino sobre sois solo somos son soy su sus suya suyas suyo suyos sí sólo tal también tampoco tan
tanto te tenemos tener tengo tenía tenían ti tiene tienen toda todas todavía todo todos tras tu
tus tuvo tuya tuyas tuyo tuyos tú u un una unas uno unos usted ustedes va van vosotras vosotros
vuestra vuestras vuestro vuestros y ya yo él éramos
"""
ENGLISH_TEXT = """
a about above after again against all also am an and any are aren as at be because been before
being below between both but by can cannot could couldn d did didn do does doesn doing don down
during each either else ever few for from further had hadn has hasn have haven having he her
here hers herself him himself his how however i if in into is isn it its itself just ll m me
might more most must my myself neither no nor not now of off on once only or other our ours
ourselves out over own per re s same shall she should shouldn so some such t than that the their
theirs them themselves then there these they this those through thus to too under until up upon
us ve very was wasn we were weren what when where whether which while who whom whose why will
with within without won would wouldn yet you your yours yourself yourselves
"""
SPANISH = frozenset(SPANISH_TEXT.split())
ENGLISH = frozenset(ENGLISH_TEXT.split())
BY_LANGUAGE = {"es": SPANISH, "en": ENGLISH}
