package sim

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// enthalpy is the heat of the house that the exchange with the outside can change: evaporation
// and condensation only move it between the air and its vapour.
func (g *greenhouse) enthalpy() float64 { return heatCapacity*g.air + latentHeat*airVolume*g.vapour }

// water is all the water of the house, in kg.
func (g *greenhouse) allWater() float64 { return g.soil + g.tank + airVolume*g.vapour/1000 }

// control draws a setting of all devices.
func control(t *rapid.T) (controls, bool) {
	b := rapid.Bool()
	return controls{b.Draw(t, "heater"), b.Draw(t, "vent"), b.Draw(t, "fan"), b.Draw(t, "pump"), b.Draw(t, "lamp")}, b.Draw(t, "door")
}

// Whatever is switched: what the house gains in heat and water is what came in less what went
// out, computed here from the flows alone; and every quantity stays within physical bounds.
func TestBalanceAndBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := newGreenhouse(rapid.Uint64().Draw(t, "seed"), float64(rapid.IntRange(0, 86399).Draw(t, "time")), 0)
		g.vapour = rapid.Float64Range(0, 30).Draw(t, "vapour") // more than the air may hold: it rains
		for range rapid.IntRange(1, 20).Draw(t, "settings") {
			g.controls, g.door = control(t)
			for range rapid.IntRange(1, 2000).Draw(t, "seconds") {
				before := *g
				g.step()
				flow := g.flow()
				gain := solarGain * bedArea * g.sun
				if g.heater {
					gain += heaterPower
				}
				if g.lamp {
					gain += lampPower
				}
				vented := flow * (before.vapour - outsideHumidity*saturated(g.outside)) // g/s
				loss := (coverLoss+airHeat*flow)*(before.air-g.outside) + latentHeat*vented
				if d := g.enthalpy() - before.enthalpy() - (gain-loss)*g.dt; math.Abs(d) > 1e-3 {
					t.Fatalf("%.6f J out of nowhere: %+v", d, g)
				}
				refill := min(tankRefill*g.dt, tankMass-before.tank)
				drained := refill - vented/1000*g.dt - (g.allWater() - before.allWater())
				if drained < -1e-9 || drained > 1e-9 && before.soil < fieldCapacity*soilMass-pumpFlow-1 {
					t.Fatalf("%.9f kg of water lost: %+v", drained, g)
				}
				for _, q := range []struct {
					name             string
					value, low, high float64
				}{
					{"air", g.air, -10, 70},
					{"humidity", g.humidity(), 0, 100},
					{"vapour", g.vapour, 0, saturated(70)},
					{"soil", g.soil, 0, saturation * soilMass},
					{"tank", g.tank, 0, tankMass},
					{"vent", g.window, 0, 1},
					{"sun", g.sun, 0, 800},
					{"outside", g.outside, -10, 35},
				} {
					if !(q.value >= q.low && q.value <= q.high) {
						t.Fatalf("%s is %v, outside %v to %v", q.name, q.value, q.low, q.high)
					}
				}
			}
		}
	})
}

// still is a dry house in a night without weather: only heat moves.
func still() *greenhouse {
	g := newGreenhouse(1, 0, 0)
	g.soil, g.sun, g.outside = 0, 0, 10
	g.vapour = outsideHumidity * saturated(10)
	g.air = 10
	g.nextWeather = math.Inf(1)
	return g
}

// The heater's warmth is its power over the losses, and the house cools with the time constant
// of its capacity over the losses: the closed solution of one differential equation.
func TestHeatAgainstTheClosedSolution(t *testing.T) {
	g := still()
	g.heater = true
	g.run(6 * 3600)
	loss := coverLoss + airHeat*leak
	rise := heaterPower / loss
	if got := g.air - 10; math.Abs(got-rise) > 0.01 {
		t.Errorf("heated by %.3f K, want %.3f", got, rise)
	}
	g.heater = false
	g.run(300)
	if got, want := g.air-10, rise*math.Exp(-300*loss/heatCapacity); math.Abs(got-want) > 0.05 {
		t.Errorf("after 300 s %.3f K above outside, want %.3f", got, want)
	}
}

// Steps a tenth as long lead to the same house a day later, and so does looking at odd times.
func TestStepSizeDoesNotMatter(t *testing.T) {
	day := func(dt, look float64) *greenhouse {
		g := newGreenhouse(7, 8*3600, 0)
		g.dt, g.pump, g.vent = dt, true, true
		for s := 0.0; s < 12*3600; s += look {
			if s >= 3600 {
				g.pump, g.vent = false, false
			}
			g.run(look)
		}
		return g
	}
	a, b := day(wholeStep, 3600), day(wholeStep/10, 3600)
	for _, q := range []struct {
		name      string
		a, b, eps float64
	}{
		{"air", a.air, b.air, 0.05}, {"vapour", a.vapour, b.vapour, 0.05},
		{"soil", a.soil, b.soil, 1}, {"tank", a.tank, b.tank, 1},
	} {
		if math.Abs(q.a-q.b) > q.eps {
			t.Errorf("%s: %.4f with steps of 1 s, %.4f with 0.1 s", q.name, q.a, q.b)
		}
	}
	if c := day(wholeStep, 0.75); c.air != a.air || c.soil != a.soil {
		t.Errorf("looking every 0.75 s made it %v °C instead of %v", c.air, a.air)
	}
}

func TestSeed(t *testing.T) {
	day := func(seed uint64) greenhouse {
		g := newGreenhouse(seed, 36000, 900)
		g.run(86400)
		g.rng = nil
		return *g
	}
	if day(3) != day(3) {
		t.Error("one seed, two days")
	}
	if day(3) == day(4) {
		t.Error("two seeds, one day")
	}
}

// Saturation vapour density of water in air, g/m³: CRC Handbook of Chemistry and Physics.
func TestSaturated(t *testing.T) {
	for celsius, want := range map[float64]float64{0: 4.85, 10: 9.40, 20: 17.3, 30: 30.4} {
		if got := saturated(celsius); math.Abs(got-want) > 0.01*want {
			t.Errorf("saturated(%v) = %.2f g/m³, want %.2f", celsius, got, want)
		}
	}
}
